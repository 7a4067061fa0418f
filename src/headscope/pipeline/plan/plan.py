"""The plan: override strings in, all jobs of all sweep points out, in one graph. Snakemake only carries it out."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from headscope.errors import ConfigError
from headscope.pipeline.assets.data import mirror_paths
from headscope.pipeline.config.compose import compose, find_root
from headscope.pipeline.config.options import from_plain
from headscope.pipeline.config.schema import Config, Tracking
from headscope.pipeline.plan.node import Node, ancestors
from headscope.pipeline.plan.nodes import figures
from headscope.pipeline.plan.stages import RESULT_STAGES, STAGES
from headscope.pipeline.store.files import canonical


@dataclass(frozen=True)
class Point:
    """One configuration of a sweep, with all of its seeds: figures pool their prompts.

    Attributes:
        name: experiment, and the swept values where there are several points; the folder of its plain-named figures.
        config: the whole configuration, with the first seed.
        seeds: of the draws.
        figures: its figure nodes, by figure.
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
        tracks: leaves that replay an experiment's nodes into a tracker, by key; empty when tracking is off.
    """

    root: Path
    results: str
    points: list[Point]
    nodes: dict[str, dict[str, Node]]
    tracks: dict[str, Node]

    def __iter__(self) -> Iterator[Node]:
        """Yield all nodes, stage by stage; tracking is none of them."""
        return (node for found in self.nodes.values() for node in found.values())

    def folder(self, node: Node) -> Path:
        """Where a node's files are."""
        return Path(self.results) / node.address

    def files(self, node: Node) -> list[str]:
        """A node's declared files."""
        return [f"{self.folder(node)}/{name}" for name in STAGES[node.stage].files(json.loads(node.spec))]

    def check_results(self) -> None:
        """Refuse a results folder that cannot be written, before any job is planned into it.

        Raises:
            ConfigError: naming the folder.
        """
        folder = Path(self.results).absolute()
        exists = next(path for path in (folder, *folder.parents) if path.exists())
        if not exists.is_dir() or not os.access(exists, os.W_OK | os.X_OK):
            why = "is no folder" if not exists.is_dir() else "cannot be written"
            raise ConfigError(
                f"option results: {folder}: {exists} {why}; choose another folder, e.g. results=/scratch/me"
            )

    def check_files(self) -> None:
        """Refuse a local copy or a folder of official samples that lacks a file which a job would read.

        Raises:
            ConfigError: naming the option and the file.
        """
        for node in self.nodes["assets"].values():
            spec = json.loads(node.spec)
            if "mirror" in spec and not mirror_paths(Path(spec["mirror"]).expanduser(), spec.get("local", ())):
                wanted = " or ".join(spec.get("local", ())) or "place for it (assets.files.*.local)"
                raise ConfigError(
                    f"option assets.mirror: {spec['mirror']} has no {wanted}, which {spec['name']} is read from"
                )
            if spec["kind"] == "data" and spec["source"] == "file" and not Path(spec["path"]).is_file():
                raise ConfigError(
                    f"option benchmark.*.source: {spec['path']} does not exist; give the folder that holds it"
                )

    def copies(self) -> dict[str, Node]:
        """Plain-named copies of figures: `<point>/<figure>--<digest>` and the figure it must be a copy of."""
        return {
            f"{point.name}/{figure}--{node.key.rpartition('--')[2]}": node
            for point in self.points
            for figure, node in point.figures.items()
        }


def build(overrides: Sequence[str] = (), root: Path | None = None) -> Plan:
    """Plan everything that the overrides ask for.

    Args:
        overrides: in Hydra's grammar; sweeps become points of one plan.
        root: the project folder; None finds it from the current folder.

    Raises:
        ConfigError: an option is unknown, mistyped or out of range, or options contradict each other.
    """
    root = root or find_root()
    points = _points([(name, from_plain(Config, config)) for name, config in compose(overrides, root)])
    if len({point.name for point in points}) < len(points) or any(
        len(set(point.seeds)) < len(point.seeds) for point in points
    ):
        raise ConfigError("two points of the sweep are the same; write each value once")
    first = points[0].config
    for name in ("results", "tracking"):
        if any(getattr(point.config, name) != getattr(first, name) for point in points):
            raise ConfigError(f"option {name} cannot be swept: a plan has one")
    nodes: dict[str, dict[str, Node]] = {stage: {} for stage in RESULT_STAGES}
    for node in ancestors([node for point in points for node in point.figures.values()]):
        nodes[node.stage][node.key] = node
    tracks = {node.key: node for node in _tracks(points, first.tracking)}
    return Plan(root, first.results, points, nodes, tracks)


def _tracks(points: Sequence[Point], tracking: Tracking) -> Iterator[Node]:
    """One leaf an experiment: its nodes are one group of runs."""
    if tracking.backend == "none":
        return
    for name in sorted({point.config.name for point in points}):
        figures = [node for point in points if point.config.name == name for node in point.figures.values()]
        spec = {"experiment": name, "project": tracking.project, "mode": tracking.mode}
        yield Node("track", name.replace("/", "-"), canonical(spec), tuple(ancestors(figures)))


def _points(composed: Sequence[tuple[str, Config]]) -> list[Point]:
    """Pool the configurations that differ in nothing but their seed."""
    pooled: dict[str, list[tuple[str, Config]]] = {}
    for name, config in composed:
        pooled.setdefault(canonical(asdict(replace(config, seed=0))), []).append((name, config))
    points = []
    for members in pooled.values():
        configs = [config for _, config in members]
        drawn = {str(node.name).split("-")[0]: node for node in figures(configs)}
        folder = _folder(members[0][0], configs[0], len(pooled))
        points.append(Point(folder, configs[0], [config.seed for config in configs], drawn))
    return points


def _folder(point: str, config: Config, points: int) -> str:
    swept = ",".join(word for word in point.split(",") if not word.startswith("seed="))
    return f"{config.name}/{swept}" if points > 1 and swept else config.name
