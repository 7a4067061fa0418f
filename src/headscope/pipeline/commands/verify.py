"""`headscope verify [--delete] [option=value ...]`: hash all results and compare them with provenance, code and plan.

Exit code 1 if anything is damaged, unknown, or missing from the plan. With --delete, what is damaged and what was made
from it is removed, so that the next run makes it anew. Sound results of older code or other options are only counted.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from headscope.errors import AssetError
from headscope.pipeline.commands.deletion import delete, refuse_while_working
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.progress import progress
from headscope.pipeline.store import provenance
from headscope.pipeline.store.verify import Finding, Kind, finished, made_from, strangers, verify
from headscope.pipeline.store.verify_copies import cell_files, verify_cell, verify_copies

LISTED = 10


def main(arguments: Sequence[str]) -> int:
    """Print what is damaged, unknown and missing, counts, and the commands that repair."""
    options = [word for word in arguments if word != "--delete"]
    plan = planning.build(options)
    results = plan.root / plan.results
    if "--delete" in arguments:
        refuse_while_working(results)
    folders, cells = list(finished(results)), cell_files(results)
    needed = _needed(plan, results)
    findings = [
        # Nothing that a plan of the present code needs is of older code: its provenance lost format and digest.
        finding._replace(kind=Kind.DAMAGED) if finding.kind is Kind.OLD and finding.path in needed else finding
        for finding in _findings(plan, results, folders, cells)
    ]
    for finding in findings:
        if finding.kind is not Kind.OLD:
            print(f"{finding.kind.value:<9}{finding.path.relative_to(results)}: {finding.problem}")
    damaged, unknown, old = (_paths(findings, kind) for kind in (Kind.DAMAGED, Kind.UNKNOWN, Kind.OLD))
    missing = [path for path, file in needed.items() if path in damaged or not file.exists()]
    gone = [path for path in missing if path not in damaged]
    for path in gone[:LISTED]:
        print(f"missing  {path.relative_to(results)}")
    if len(gone) > LISTED:
        print(f"missing  {len(gone) - LISTED} more; {_command('plan', *options)} lists all")
    other = len(set(folders) - needed.keys())
    counts = f"{len(damaged)} damaged, {len(unknown)} unknown, {len(old)} of older code, {other} in no job of the plan"
    print(f"{len(folders)} results, {len(cells)} cells: {counts}")
    print(f"plan: {len(needed) - len(missing)} of {len(needed)} present")
    if "--delete" in arguments:
        delete(results, damaged, "headscope verify --delete")
        print(f"{len(damaged)} deleted; to make them anew: {_command('run', *options)}")
        return 0
    if damaged:
        print(f"to repair: {_command('verify', '--delete', *options)}, then {_command('run', *options)}")
    elif missing:
        print(f"to make what is missing: {_command('run', *options)}")
    return 1 if damaged or unknown or missing else 0


def _findings(plan: Plan, results: Path, folders: Sequence[Path], cells: Sequence[Path]) -> Iterator[Finding]:
    """Yield the problems of results and of what was made from damaged ones, of cells and copies."""
    of_results = [finding for folder in progress(folders, "verify results") for finding in verify(folder)]
    yield from of_results
    addresses = {path.relative_to(results).as_posix() for path in _paths(of_results, Kind.DAMAGED)}
    for address, origin in made_from(addresses, _parents(plan, folders)).items():
        if results / address in folders:
            yield Finding(results / address, f"made from damaged {origin}")
    for cell in progress(cells, "verify cells"):
        yield from verify_cell(cell)
    yield from verify_copies(results)
    yield from strangers(results)


def _parents(plan: Plan, folders: Sequence[Path]) -> dict[str, list[str]]:
    """Return the parents' addresses of all results and jobs by address; damage passes through jobs that are missing."""
    parents = {node.address: [parent.address for parent in node.parents] for node in [*plan, *plan.tracks.values()]}
    for folder in folders:
        try:
            parents[f"{folder.parent.name}/{folder.name}"] = list(provenance.read(folder)["parents"])
        except AssetError:
            continue  # it is damaged itself
    return parents


def _needed(plan: Plan, results: Path) -> dict[Path, Path]:
    """Return what a plan makes, results and plain-named copies, each with the file that is there if it is."""
    folders = [results / address for address in plan.addresses]
    markers = [plan.root / plan.marker(copy) for copy in plan.copies()]
    return {**{folder: folder / provenance.FILE for folder in folders}, **{marker: marker for marker in markers}}


def _paths(findings: Sequence[Finding], kind: Kind) -> list[Path]:
    """Return the paths of one kind, each once."""
    return list(dict.fromkeys(finding.path for finding in findings if finding.kind is kind))


def _command(*words: str) -> str:
    return shlex.join(["headscope", *words])
