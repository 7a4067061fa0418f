"""Checks that a result is what its address says: files, parents and code against its provenance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from headscope.errors import AssetError, HeadscopeError
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.plan.node import KEY, key_digest, modules
from headscope.pipeline.plan.stages import RESULT_STAGES
from headscope.pipeline.store import provenance
from headscope.pipeline.store.intact import EVERY_FILE, problems


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
    wrong = list(problems(folder, hash_below=EVERY_FILE))
    yield from (Finding(folder, problem) for problem in wrong)
    try:
        recorded = provenance.read(folder)
    except AssetError:
        return
    unknown = sorted(provenance.hash_files(folder).keys() - recorded["files"].keys())
    yield from (Finding(folder, f"{name} was not made by the stage") for name in unknown)
    yield from _address(folder, recorded)


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
