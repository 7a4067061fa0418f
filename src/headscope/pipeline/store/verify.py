"""Is a results folder what its address says? Hashes of all files, parents and code against provenance and plan."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from headscope.errors import HeadscopeError
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.plan.node import KEY, key_digest, modules
from headscope.pipeline.plan.stages import RESULT_STAGES
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import sha256_file


@dataclass(frozen=True)
class Finding:
    """What is wrong with one folder.

    Attributes:
        folder: the node's.
        problem: in words.
        harmful: False for a sound result of other code or options than the present ones.
    """

    folder: Path
    problem: str
    harmful: bool = True


def finished(results: Path) -> Iterator[Path]:
    """Yield every node folder under a results folder; empty ones, which Snakemake makes ahead of a job, are none."""
    for stage in RESULT_STAGES:
        for path in sorted((results / stage).glob("*")):
            if KEY.fullmatch(path.name) and any(file.is_file() for file in path.rglob("*")):
                yield path


def leftovers(results: Path) -> Iterator[Path]:
    """Yield temporary siblings that killed jobs left behind; while a workflow runs they may be in use."""
    for stage in RESULT_STAGES:
        yield from sorted((results / stage).glob(".*.tmp"))


def verify(folder: Path) -> Iterator[Finding]:
    """Compare one node's folder with its provenance, its parents, its address and the present code."""
    found = provenance.read(folder)
    if not found:
        yield Finding(folder, "has no readable provenance.json")
        return
    yield from _files(folder, found["files"])
    yield from _parents(folder, found["parents"])
    yield from _address(folder, found)


def _files(folder: Path, recorded: dict[str, str]) -> Iterator[Finding]:
    present = provenance.hash_files(folder)
    for name in sorted(recorded.keys() | present.keys()):
        if name not in present:
            yield Finding(folder, f"{name} is missing")
        elif name not in recorded:
            yield Finding(folder, f"{name} was not made by the stage")
        elif present[name] != recorded[name]:
            yield Finding(folder, f"{name} has changed since it was made")


def _parents(folder: Path, recorded: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """A parent that is gone is no fault (gc); one with other bytes is."""
    for address, files in recorded.items():
        parent = folder.parents[1] / address
        if parent.is_dir() and provenance.read(parent).get("files", files) != files:
            yield Finding(folder, f"was made from other bytes of {address} than lie there now")


def _address(folder: Path, found: provenance.Provenance) -> Iterator[Finding]:
    stage, keyed = folder.parent.name, KEY.fullmatch(folder.name)
    try:
        spec = yaml.safe_load((folder / provenance.SPEC).read_text(encoding="utf-8"))
        code = code_digest(*modules(stage, spec))
    except (OSError, ValueError, yaml.YAMLError, KeyError, AttributeError, TypeError, HeadscopeError) as error:
        yield Finding(folder, f"spec.yaml does not say what made it ({type(error).__name__}: {error})")
        return
    parents = [address.split("/")[-1] for address in found["parents"]]
    if keyed is None or keyed["digest"] != key_digest(stage, spec, parents, found["code"]):
        yield Finding(folder, "its address is not that of its spec, parents and code")
    elif code != found["code"]:
        yield Finding(folder, "was made by other code than the present", harmful=False)


def external_files(folder: Path) -> Iterator[Finding]:
    """Check model files that lie elsewhere (a hub's cache, a folder of the user's) against the manifest."""
    manifest = folder / "manifest.json"
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # reported with the folder's own files
    where = Path(found.get("model", ""))
    for name, sha256 in found.get("files", {}).items() if where.is_absolute() else ():
        if not (where / name).is_file():
            yield Finding(folder, f"{where / name} is missing")
        elif sha256_file(where / name) != sha256:
            yield Finding(folder, f"{where / name} has changed since it was fetched")
