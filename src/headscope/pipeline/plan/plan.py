"""The plan: override strings in, the jobs of all sweep points out, in one graph. Snakemake only carries it out."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headscope.errors import AssetError, ConfigError
from headscope.pipeline.assets.data import mirror_paths
from headscope.pipeline.collector import collector_paused
from headscope.pipeline.config.compose import compose, find_root
from headscope.pipeline.config.options import from_plain
from headscope.pipeline.config.schema import Config, Tracking
from headscope.pipeline.plan.node import Node, ancestors
from headscope.pipeline.plan.nodes import figures
from headscope.pipeline.plan.stages import RESULT_STAGES, STAGES
from headscope.pipeline.store import left_out
from headscope.pipeline.store.files import canonical, digest
from headscope.pipeline.store.left_out import LeftOut

SOURCES = ("conf", "src", "workflow", "config", "profiles", "tests", "docs", "bench", ".git", ".snakemake")
LONGEST = 150  # bytes of a sweep point's readable name


@dataclass(frozen=True)
class Point:
    """One configuration of a sweep with all of its seeds; its figures pool their prompts.

    Attributes:
        name: experiment and, in a sweep, the swept values; the folder of its plain-named figures.
        config: the whole configuration, with the first seed.
        seeds: all seeds.
        figures: figure nodes by the figure's name.
    """

    name: str
    config: Config
    seeds: list[int]
    figures: dict[str, Node]


@dataclass(frozen=True)
class Plan:
    """All jobs of one command.

    Attributes:
        root: the project folder.
        results: folder of all results.
        points: configurations of the sweep.
        nodes: by stage, then by key; parents before children.
        tracks: nodes that replay an experiment's results into a tracker, by key; empty when tracking is off.
    """

    root: Path
    results: str
    points: list[Point]
    nodes: dict[str, dict[str, Node]]
    tracks: dict[str, Node]

    def __iter__(self) -> Iterator[Node]:
        """Yield all nodes that make results, stage by stage."""
        return (node for by_key in self.nodes.values() for node in by_key.values())

    @property
    def addresses(self) -> list[str]:
        """Return the addresses of all nodes, tracking included."""
        return [node.address for node in [*self, *self.tracks.values()]]

    def folder(self, node: Node) -> Path:
        """Return a node's folder, relative to the root."""
        return Path(self.results) / node.address

    def declared(self, node: Node) -> list[str]:
        """Return the names of a node's declared files, the provenance last."""
        return STAGES[node.stage].files(json.loads(node.spec))

    def files(self, node: Node) -> list[str]:
        """Return a node's declared files, relative to the root."""
        return [f"{self.folder(node)}/{name}" for name in self.declared(node)]

    def left_out(self) -> list[LeftOut]:
        """Return the tasks that could not be drawn at a length, as far as prompts are done."""
        reasons = []
        for node in self.nodes["prompts"].values():
            with suppress(AssetError):  # a damaged folder is made anew
                reasons.append(left_out.read(self.root / self.folder(node)))
        return [reason for reason in reasons if reason]

    def copies(self) -> dict[str, Node]:
        """Return the figure node behind each plain-named copy, `<point>/<figure>--<digest>`."""
        return {
            f"{point.name}/{figure}--{node.key.rpartition('--')[2]}": node
            for point in self.points
            for figure, node in point.figures.items()
        }

    def marker(self, copy: str) -> Path:
        """Return the file, relative to the root, whose name says which figure a plain-named copy is of."""
        return Path(self.results, "figures", f"{copy}.key")

    def check(self) -> None:
        """Refuse a plan that is sure to fail, before any job runs.

        Raises:
            ConfigError: the results folder cannot be written, or a local file that a job would read does not exist.
        """
        _check_results(self.root.resolve(), (self.root / self.results).resolve())
        if (memory := self.root / ".snakemake").exists() and not memory.is_dir():
            raise ConfigError(f"{memory} is a file, where Snakemake keeps a folder; delete it: nothing in it counts")
        for node in self.nodes["assets"].values():
            _check_local_files(json.loads(node.spec))


def _check_results(root: Path, folder: Path) -> None:
    """Check that results can be written, and not among the project's own files."""
    if root.is_relative_to(folder) or any(folder.is_relative_to(root / part) for part in SOURCES):
        raise ConfigError(
            f"option results: {folder} holds the project's own files; choose another folder: results=results"
        )
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        why = "is no folder" if not existing.is_dir() else "cannot be written"
        raise ConfigError(
            f"option results: {folder}: {existing} {why}; choose another folder, e.g. results=/scratch/me"
        )


def _check_local_files(spec: dict[str, Any]) -> None:
    """Check that an asset's local copy or its file of official samples exists."""
    if "mirror" in spec and not mirror_paths(Path(spec["mirror"]).expanduser(), spec.get("local", ())):
        wanted = " or ".join(spec.get("local", ())) or "place for it (assets.files.*.local)"
        raise ConfigError(f"option assets.mirror: {spec['mirror']} has no {wanted}, which {spec['name']} is read from")
    if spec["kind"] == "data" and spec["source"] == "file" and not Path(spec["path"]).is_file():
        raise ConfigError(f"option benchmark.*.source: {spec['path']} does not exist; give the folder that holds it")


@collector_paused()
def build(overrides: Sequence[str] = (), root: Path | None = None) -> Plan:
    """Plan all jobs of some override strings.

    Args:
        overrides: in Hydra's grammar; sweeps become points of one plan.
        root: the project folder; None finds it from the current folder.

    Raises:
        ConfigError: an option is unknown, mistyped or out of range, or options contradict each other.
    """
    root = root or find_root()
    points = _points([(name, from_plain(Config, config)) for name, config in compose(overrides, root)])
    draws = [(point.name, seed) for point in points for seed in point.seeds]
    if len({point.name.casefold() for point in points}) < len(points) or len(set(draws)) < len(draws):
        raise ConfigError("two points of the sweep are the same, or have one name; write each value once")
    first = points[0].config
    for option in ("results", "tracking"):
        if any(getattr(point.config, option) != getattr(first, option) for point in points):
            raise ConfigError(f"option {option} cannot be swept: a plan has one")
    nodes: dict[str, dict[str, Node]] = {stage: {} for stage in RESULT_STAGES}
    for node in ancestors([node for point in points for node in point.figures.values()]):
        nodes[node.stage][node.key] = node
    tracks = {node.key: node for node in _tracks(points, first.tracking)}
    return Plan(root, str(Path(first.results)), points, nodes, tracks)


def _tracks(points: Sequence[Point], tracking: Tracking) -> Iterator[Node]:
    """Yield one node for each experiment: its results are one group of runs."""
    if tracking.backend == "none":
        return
    for name in sorted({point.config.name for point in points}):
        drawn = [node for point in points if point.config.name == name for node in point.figures.values()]
        spec = {"experiment": name, "project": tracking.project, "mode": tracking.mode}
        yield Node("track", name.replace("/", "-"), canonical(spec), tuple(ancestors(drawn)))


def _points(composed: Sequence[tuple[str, Config]]) -> list[Point]:
    """Pool the configurations that differ only in their seed."""
    pooled: dict[str, list[tuple[str, Config]]] = {}
    for name, config in composed:
        pooled.setdefault(canonical(asdict(replace(config, seed=0))), []).append((name, config))
    points = []
    for members in pooled.values():
        configs = [config for _, config in members]
        swept = ",".join(word for word in members[0][0].split(",") if not word.startswith("seed="))
        if len(swept.encode()) > LONGEST:
            swept = f"{swept[:40]}-{digest(swept)}"
        folder = f"{configs[0].name}/{swept}" if len(pooled) > 1 and swept else configs[0].name
        points.append(Point(folder, configs[0], [config.seed for config in configs], figures(configs)))
    return points
