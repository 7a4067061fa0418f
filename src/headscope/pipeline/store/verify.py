"""Checks of all results: each against its provenance, its parents, its address and the present code."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from headscope.errors import AssetError, HeadscopeError
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.plan.node import KEY, key_digest, modules
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.store import provenance
from headscope.pipeline.store.intact import EVERY_FILE, problems
from headscope.pipeline.store.parents import Parent
from headscope.pipeline.store.sealed import UnsealedError


class Kind(Enum):
    """What a finding says of its path."""

    DAMAGED = "damaged"
    UNKNOWN = "unknown"
    OLD = "old"  # sound, but made by other code or in another format


class Finding(NamedTuple):
    """A problem of one result, cell or copy.

    Attributes:
        path: what has the problem, and what is deleted if it is damaged.
        problem: in words.
        kind: how bad it is.
    """

    path: Path
    problem: str
    kind: Kind = Kind.DAMAGED


def finished(results: Path, stages: Collection[str] = tuple(STAGES)) -> Iterator[Path]:
    """Yield the folders of all results; Snakemake makes empty ones ahead of a job, which do not count."""
    for stage in stages:
        for path in sorted((results / stage).glob("*")):
            if KEY.fullmatch(path.name) and any(file.is_file() for file in path.rglob("*")):
                yield path


def leftovers(results: Path) -> Iterator[Path]:
    """Yield temporary folders of killed jobs; while a workflow runs they may be in use."""
    for stage in STAGES:
        yield from sorted((results / stage).glob(".*.tmp"))


def verify(folder: Path) -> Iterator[Finding]:
    """Compare one result with its provenance, its parents, its address and the present code; hash all files."""
    try:
        recorded = provenance.read(folder)
    except UnsealedError as error:
        yield Finding(folder, str(error), Kind.OLD)
        return
    except AssetError as error:
        yield Finding(folder, str(error).removeprefix(f"{folder}/"))
        return
    damages = list(problems(folder, hash_below=EVERY_FILE))
    yield from (Finding(folder, damage) for damage in damages)
    for name in sorted(set(provenance.names(folder)) - recorded["files"].keys()):
        yield Finding(folder / name, "no stage made it", Kind.UNKNOWN)
    if not damages:
        yield from _address(folder, Parent(folder).spec, recorded)


def _address(folder: Path, spec: dict[str, Any], recorded: provenance.Provenance) -> Iterator[Finding]:
    stage, keyed = folder.parent.name, KEY.fullmatch(folder.name)
    parents = [address.split("/")[-1] for address in recorded["parents"]]
    if keyed is None or keyed["digest"] != key_digest(stage, spec, parents, recorded["code"]):
        yield Finding(folder, "its address is not that of its spec, parents and code")
        return
    try:
        code = code_digest(*modules(stage, spec))
    except (HeadscopeError, LookupError, TypeError, AttributeError):  # older code wrote other slices, or is gone
        code = ""
    if code != recorded["code"]:
        yield Finding(folder, "was made by other code than the present", Kind.OLD)


def made_from(damaged: Collection[str], parents: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Return the descendants of damaged results by address, each with the damaged one that it goes back to.

    Args:
        damaged: addresses.
        parents: addresses of the parents of each result.
    """
    children = defaultdict(list)
    for child, addresses in parents.items():
        for address in addresses:
            children[address].append(child)
    origins: dict[str, str] = {}
    waiting = list(damaged)
    for address in waiting:
        for child in children[address]:
            if child not in origins and child not in damaged:
                origins[child] = origins.get(address, address)
                waiting.append(child)
    return origins


def strangers(results: Path) -> Iterator[Finding]:
    """Report what lies among the results and is none; folders beside figures hold their plain-named copies."""
    for stage in STAGES:
        for path in sorted((results / stage).glob("[!.]*")):
            if not KEY.fullmatch(path.name) and not (stage == "figures" and path.is_dir()):
                yield Finding(path, "no stage made it", Kind.UNKNOWN)
