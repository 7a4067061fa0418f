"""Checks that a result is what its address says: files, parents and code against its provenance."""

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
    """A problem of one result.

    Attributes:
        folder: its folder.
        problem: in words.
        harmful: False for a sound result of older code.
    """

    folder: Path
    problem: str
    harmful: bool = True


def finished(results: Path) -> Iterator[Path]:
    """Yield the folders of all results; Snakemake makes empty ones ahead of a job, which do not count."""
    for stage in RESULT_STAGES:
        for path in sorted((results / stage).glob("*")):
            if KEY.fullmatch(path.name) and any(file.is_file() for file in path.rglob("*")):
                yield path


def leftovers(results: Path) -> Iterator[Path]:
    """Yield temporary folders of killed jobs; while a workflow runs they may be in use."""
    for stage in RESULT_STAGES:
        yield from sorted((results / stage).glob(".*.tmp"))


def verify(folder: Path) -> Iterator[Finding]:
    """Compare one result with its provenance, its parents, its address and the present code."""
    recorded = provenance.read(folder)
    if not recorded:
        yield Finding(folder, "has no readable provenance.json")
        return
    yield from _files(folder, recorded["files"])
    yield from _parents(folder, recorded["parents"])
    yield from _address(folder, recorded)


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
    """Report parents with other bytes; a parent that gc has removed is no fault."""
    for address, files in recorded.items():
        parent = folder.parents[1] / address
        if parent.is_dir() and provenance.read(parent).get("files", files) != files:
            yield Finding(folder, f"was made from other bytes of {address} than lie there now")


def _address(folder: Path, recorded: provenance.Provenance) -> Iterator[Finding]:
    stage, keyed = folder.parent.name, KEY.fullmatch(folder.name)
    try:
        spec = yaml.safe_load((folder / provenance.SPEC).read_text(encoding="utf-8"))
        code = code_digest(*modules(stage, spec))
    except (OSError, ValueError, yaml.YAMLError, KeyError, AttributeError, TypeError, HeadscopeError) as error:
        yield Finding(folder, f"spec.yaml does not say what made it ({type(error).__name__}: {error})")
        return
    parents = [address.split("/")[-1] for address in recorded["parents"]]
    if keyed is None or keyed["digest"] != key_digest(stage, spec, parents, recorded["code"]):
        yield Finding(folder, "its address is not that of its spec, parents and code")
    elif code != recorded["code"]:
        yield Finding(folder, "was made by other code than the present", harmful=False)


def external_files(folder: Path) -> Iterator[Finding]:
    """Compare model files outside the results (in the hub's cache, in a user's folder) with the manifest."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # reported with the folder's own files
    model = Path(manifest.get("model", ""))
    for name, sha256 in manifest.get("files", {}).items() if model.is_absolute() else ():
        if not (model / name).is_file():
            yield Finding(folder, f"{model / name} is missing")
        elif sha256_file(model / name) != sha256:
            yield Finding(folder, f"{model / name} has changed since it was fetched")
