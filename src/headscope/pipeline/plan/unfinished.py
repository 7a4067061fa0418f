"""What of a plan is missing, damaged or made from other bytes: that runs, whatever Snakemake remembers."""

import json
import shutil
from typing import NamedTuple

from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import sibling
from headscope.pipeline.store.intact import problem
from headscope.pipeline.store.verify_copies import changed_copies


class Reason(NamedTuple):
    """Why a job has to run.

    Attributes:
        words: the end of a sentence about its folder.
        harmful: the folder lies there and must not be used.
    """

    words: str
    harmful: bool


def unfinished(plan: Plan) -> dict[str, Reason]:
    """Return why jobs of a plan have to run, by address, parents first. Any other job is done.

    A job is done if its folder is what was written, its parents are done, and it was made from what they hold now.
    """
    reasons: dict[str, Reason] = {}
    for node in [*plan, *plan.tracks.values()]:
        if reason := _reason(plan, node, reasons):
            reasons[node.address] = reason
    return reasons


def _reason(plan: Plan, node: Node, reasons: dict[str, Reason]) -> Reason | None:
    folder = plan.root / plan.folder(node)
    if not (folder / provenance.FILE).exists():
        return Reason("missing", harmful=False)
    if damage := problem(folder, plan.declared(node)):
        return Reason(damage, harmful=True)
    if parent := next((parent for parent in node.parents if parent.address in reasons), None):
        return Reason(f"made from {parent.address}, which is made again", harmful=False)
    return None


def unfinished_copies(plan: Plan, reasons: dict[str, Reason]) -> list[str]:
    """Return the plain-named copies of figures that are missing, changed or copies of another figure."""
    return [copy for copy, node in plan.copies().items() if node.address in reasons or not _is_copied(plan, copy, node)]


def _is_copied(plan: Plan, copy: str, node: Node) -> bool:
    marker = plan.root / plan.marker(copy)
    if not marker.is_file() or marker.read_text(encoding="utf-8", errors="replace").strip() != node.key:
        return False
    return not changed_copies(marker, provenance.read(plan.root / plan.folder(node))["files"])


def set_aside(plan: Plan, reasons: dict[str, Reason]) -> None:
    """Rename what must not be used, so that it is made anew; the hidden folders are left to `headscope gc`."""
    for address, reason in reasons.items():
        folder = plan.root / plan.results / address
        if reason.harmful:
            folder.rename(sibling(folder))
    for copy in unfinished_copies(plan, reasons):
        (plan.root / plan.marker(copy)).unlink(missing_ok=True)


def forget_garbage(plan: Plan) -> None:
    """Delete what Snakemake would stumble over: marks of interrupted jobs, and records that it cannot read.

    No result needs either; the report takes the times of jobs from records.
    """
    memory = plan.root / ".snakemake"
    shutil.rmtree(memory / "incomplete", ignore_errors=True)
    for file in (memory / "metadata").rglob("*"):
        try:
            readable = file.is_dir() or isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
        except (OSError, ValueError):
            readable = False
        if not readable:
            file.unlink(missing_ok=True)


def remaining(plan: Plan, reasons: dict[str, Reason]) -> str:
    """Say in one sentence what of a plan is still to be made; an empty text if nothing is."""
    missing = [*reasons, *(f"figures/{copy}" for copy in unfinished_copies(plan, reasons))]
    total = len(plan.addresses) + len(plan.copies())
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    return f"{len(missing)} of {total} results are missing: {names}" if missing else ""
