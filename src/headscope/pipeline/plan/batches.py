"""Batches: jobs of one stage on one model and length that a single process runs, so that the model is loaded once.

Figures that read the same are a batch too: a process takes longer to start than a figure to draw.

A batch follows from the plan alone, whatever of it is done: a cluster's job that plans again finds the same.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from math import ceil
from pathlib import Path
from typing import Any

from headscope.pipeline.plan.costs import device_of, work
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.store.files import atomic_file, digest

SECONDS, ON_GPU, WITHOUT_MODEL = 45.0, 15.0, 4.0
"""Work that ends a batch: over ten times the start of a process, which for most stages loads a model; on a GPU, where
many run at once, no long wait for the last of a stage."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Jobs that one process runs, one after the other.

    Attributes:
        stage: of all of its nodes.
        nodes: in the order of the plan; none descends from another.
    """

    stage: str
    nodes: tuple[Node, ...]

    @cached_property
    def name(self) -> str:
        """Name of its files: readable, then the digest of the addresses."""
        others = f"-and-{len(self.nodes) - 1}-more" if len(self.nodes) > 1 else ""
        return f"{self.nodes[0].name}{others}--{digest([node.address for node in self.nodes])}"

    @property
    def path(self) -> str:
        """Its files below the results folder, without an ending: `.json` lists the jobs, `.done` marks the end."""
        return f".jobs/{self.stage}/{self.name}"

    def lacks_any(self, unfinished: Collection[str]) -> bool:
        """Return True if any of its jobs is among those, by address, that are not done."""
        return any(node.address in unfinished for node in self.nodes)

    def jobs(self, plan: Plan) -> list[dict[str, Any]]:
        """Return what `headscope batch` reads: each job's stage, slice, folder and parents, relative to the root."""
        return [
            {
                "stage": node.stage,
                "spec": json.loads(node.spec),
                "out": str(plan.folder(node)),
                "parents": [str(plan.folder(parent)) for parent in node.parents],
            }
            for node in self.nodes
        ]


def batches(plan: Plan) -> list[Batch]:
    """Cut a plan into batches."""
    groups: dict[tuple[str, ...], list[Node]] = {}
    for node in [*plan, *plan.tracks.values()]:
        groups.setdefault(_group(node), []).append(node)
    return [Batch(nodes[0].stage, tuple(nodes)) for group in groups.values() for nodes in _cut(group)]


def write_batches(plan: Plan, chosen: Iterable[Batch]) -> None:
    """Write the jobs of batches to the files that `headscope batch` reads.

    Raises:
        AssetError: a file cannot be written.
    """
    for batch in chosen:
        with atomic_file(plan.root / plan.results / f"{batch.path}.json") as file:
            file.write_text(json.dumps(batch.jobs(plan)), encoding="utf-8")


def marks(plan: Plan) -> list[Path]:
    """Return the marks of all batches that have ended, whatever has become of their results."""
    return list((plan.root / plan.results).glob(".jobs/*/*.done"))


def forget_stale(ended: Iterable[Path], all_batches: Iterable[Batch], unfinished: Collection[str]) -> None:
    """Delete the marks of batches that are not done any more.

    Args:
        ended: the marks that were there before `unfinished` was found, so that none is of a run that goes on.
        all_batches: of the plan.
        unfinished: addresses of what is not done.
    """
    stale = {batch.name for batch in all_batches if batch.lacks_any(unfinished)}
    for mark in ended:
        if mark.stem in stale:
            mark.unlink(missing_ok=True)


def _group(node: Node) -> tuple[str, ...]:
    """Return what the jobs of a batch share: the stage, the model and the length; other stages' jobs stay alone."""
    if not STAGES[node.stage].batched:
        return (node.address,)
    if node.stage == "figures":
        return node.stage, *(parent.address for parent in node.parents)
    spec = json.loads(node.spec)
    return node.stage, _model(node), str(spec["length"]), *(str(spec.get(name)) for name in ("device", "dtype"))


def _model(node: Node) -> str:
    """Return the address of the model that a job works on, or on whose results."""
    models = (parent.address for parent in node.parents if parent.stage == "assets")
    return next(models, "") or _model(node.parents[0])


def _cut(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """Cut jobs into neighbours of about the same work, which is at most about the limit."""
    works = [work(node) for node in nodes]
    most = ON_GPU if device_of(nodes[0]) == "cuda" else SECONDS if STAGES[nodes[0].stage].gpu else WITHOUT_MODEL
    limit = sum(works) / max(1, ceil(sum(works) / most))
    middles = [end - seconds / 2 for end, seconds in zip(accumulate(works), works, strict=True)]
    parts = groupby(zip(middles, nodes, strict=True), key=lambda pair: pair[0] // limit)
    return ([node for _, node in part] for _, part in parts)
