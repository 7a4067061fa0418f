"""About how long a run will take: the work of its jobs, by what finished jobs of the same stages took, on its cores."""

import heapq
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from headscope.errors import AssetError
from headscope.pipeline.plan.batches import batches
from headscope.pipeline.plan.costs import START, device_of, work
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.progress import clock
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import canonical

NEWEST = 20
"""Finished jobs of a stage that tell its speed: older ones may be of slower code or of another machine."""
CORES = re.compile(r"(?:-c|-j|--cores|--jobs)(?:[= ]?(\d+|all))?(?= |$)")
ELSEWHERE = ("-e", "--executor", "--profile", "--workflow-profile")
Kind = tuple[str, str]  # stage and device


class Speed(NamedTuple):
    """How fast a stage is here: seconds for each second of work, and seconds that a process takes beside them."""

    factor: float
    start: float


def estimate(plan: Plan, unfinished: Collection[str], passed: Sequence[str] = ()) -> str:
    """Say in one line about how long the jobs of a plan that are not done will take.

    Args:
        plan: all jobs.
        unfinished: addresses of those that are not done.
        passed: options of Snakemake, which say on how many cores.
    """
    missing = {node.address for node in plan} & {*unfinished}
    total = len(list(plan))
    jobs = f"{len(missing)} job{'s' * (len(missing) != 1)} ({total - len(missing)} are done)"
    if not missing:
        return ""
    nodes = [node for node in plan if node.address in missing]
    speeds = {kind: _speed(plan.root / plan.results, *kind) for kind in {*map(_kind, nodes)}}
    if unknown := sorted(f"{stage} on {device}" for (stage, device), speed in speeds.items() if speed is None):
        return f"{jobs}; no measured seconds of {', '.join(unknown)} yet, so how long they take is not known"
    known = {kind: speed for kind, speed in speeds.items() if speed is not None}
    if runs_elsewhere(passed):
        return f"about {_rounded(sum(work(node) * known[_kind(node)].factor for node in nodes))} of work for {jobs}"
    return f"about {_rounded(_wall_time(plan, missing, known, _cores(passed)))} for {jobs}"


def _kind(node: Node) -> Kind:
    return node.stage, device_of(node)


def _rounded(seconds: float) -> str:
    return clock(60 * round(seconds / 60)).removesuffix(" 00 s") if seconds >= 120 else clock(seconds)


def runs_elsewhere(passed: Sequence[str]) -> bool:
    """Return True if options of Snakemake may run jobs on other machines."""
    return any(word.partition("=")[0] in ELSEWHERE for word in passed)


def _cores(passed: Sequence[str]) -> int:
    counts = CORES.findall(" ".join(passed))
    return int(counts[-1]) if counts and counts[-1].isdecimal() else os.cpu_count() or 1


def _speed(results: Path, stage: str, device: str) -> Speed | None:
    """Return how fast a stage was on a device; None if nobody has measured it."""
    files = (file for file in results.glob(f"{stage}/*/{provenance.FILE}") if "--" in file.parent.name)
    newest = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[:NEWEST]
    took = worked = 0.0
    for folder in (file.parent for file in newest):
        with suppress(AssetError, OSError, KeyError, ValueError, yaml.YAMLError):  # damaged, or of older options
            node = node_of(folder)
            if _kind(node) == (stage, device):
                seconds, amount = provenance.read(folder)["seconds"], work(node)
                took, worked = took + seconds, worked + amount
    if worked:
        return Speed(took / worked, START)
    return Speed(1.0, START) if device == "cpu" else None


@cache
def node_of(folder: Path) -> Node:
    """Rebuild the node that made a folder of results."""
    spec = yaml.safe_load((folder / provenance.SPEC).read_text(encoding="utf-8"))
    parents = tuple(node_of(folder.parents[1] / address) for address in provenance.read(folder)["parents"])
    return Node(folder.parent.name, folder.name.rpartition("--")[0], canonical(spec), parents)


def _wall_time(plan: Plan, missing: Collection[str], speeds: Mapping[Kind, Speed], cores: int) -> float:
    """Return when the last process would end if each started as soon as a core and its parents allow."""
    free, ends = [0.0] * cores, dict[str, float]()
    for batch in batches(plan):
        nodes = [node for node in batch.nodes if node.address in missing]
        if nodes:
            speed = speeds[_kind(nodes[0])]
            ready = max((ends.get(parent.address, 0.0) for node in nodes for parent in node.parents), default=0.0)
            start = max(heapq.heappop(free), ready)
            end = start + speed.start + speed.factor * sum(map(work, nodes))
            heapq.heappush(free, end)
            ends |= {node.address: end for node in nodes}
    return max(free)
