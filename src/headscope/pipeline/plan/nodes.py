"""From one checked configuration to its jobs.

A node's key digests its slice, its parents' keys and its stage's code, so its address says all that made the result.
Tracking, results folder, cores and batch sizes are in no slice.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from headscope.benchmarks import registry
from headscope.benchmarks.row import OFFICIAL
from headscope.pipeline.assets.official import official_file
from headscope.pipeline.assets.packaged import MAKERS
from headscope.pipeline.config.schema import Config
from headscope.pipeline.plan.margin_kinds import WITH_MARGINS, has_margins, recorded_kind
from headscope.pipeline.plan.node import LOST_OUTPUT, Node, Spec, make_node

CHUNK = 256


def figures(configs: Sequence[Config]) -> list[Node]:
    """Return the figure nodes of configurations that differ in nothing but their seed; all others are ancestors."""
    builders = [_Builder(config) for config in configs]
    parents = [node for builder in builders for node in builder.measured()]
    diagnostics = [node for builder in builders for node in builder.diagnostics()]
    return builders[0].figures([config.seed for config in configs], parents, diagnostics)


def _given(options: Any) -> Spec:
    """An option group without what is null: an option that a later version adds changes no older key."""
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}


def _plain(given: Any) -> Spec | None:
    return None if given is None else dataclasses.asdict(given)


class Cell(NamedTuple):
    """What is evaluated together: one task of one benchmark at one length."""

    benchmark: str
    length: int
    task: str


class _Builder:
    """Makes the nodes of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config, self.model = config, config.model
        self.window = config.window
        self.criteria = dict(sorted(config.criterion.items()))  # their order makes no other result
        rope = None if self.model.rope is None else _given(self.model.rope)
        self.compute = {"dtype": self.model.dtype, "device": self.model.device, "rope": rope}
        self.compute["device_map"] = self.model.device_map
        # Of scope prompt alone, so that the other's keys know nothing of it.
        self.chunk = {"chunk": config.chunk or CHUNK} if config.scope == "prompt" else {}
        self.deciding = {"window": _given(self.window), **self.chunk}
        self.assets = make_node(
            "assets",
            [self.model.name],
            {
                "kind": "model",
                "name": self.model.name,
                "source": _given(self.model.source),
                "expect": _given(self.model.expect),
            },
            [],
        )
        self.estimators = {
            criterion.estimator.name: criterion.estimator
            for criterion in self.criteria.values()
            if criterion.estimator is not None and not has_margins(criterion)
        }
        self.cells = [
            Cell(name, length, task)
            for name, benchmark in sorted(config.benchmark.items())
            for length in benchmark.lengths
            for task in benchmark.tasks
        ]
        self.files: dict[str, Node] = {}
        self.moments = {length: self._moments(length) for length in sorted({cell.length for cell in self.cells})}
        self.prompts = {cell: self._prompts(cell) for cell in self.cells}
        self.dense = {cell: self._dense(cell) for cell in self.cells}
        self.probes: dict[Cell, Node] = {}
        self.oracle = {cell: self._oracle(cell) for cell in self.cells}
        self.margins: dict[Cell, Node] = {}
        self.calibration: dict[tuple[str, str, int, str | None], Node] = {}
        calibration = config.calibration
        chosen = {"tasks": calibration.tasks, "prompts": calibration.prompts}
        self.chosen = {name: value for name, value in chosen.items() if value is not None}

    def _moments(self, length: int) -> list[Node]:
        estimators = [criterion.estimator for criterion in self.criteria.values()]
        texts = sorted({estimator.moments for estimator in estimators if estimator is not None} - {"prompt"})
        common = {"length": length, "seed": self.config.seed, "sink": self.window.sink, **self.compute}
        files = {text: [self._file("prose")] if text == "prose" else [] for text in texts}
        return [
            make_node("moments", [text, length, self.model.name], {"text": text, **common}, [self.assets, *files[text]])
            for text in texts
        ]

    def _file(self, name: str) -> Node:
        """The node of a benchmark's file."""
        if name not in self.files:
            given = {key: value for key, value in _given(self.config.assets.files[name]).items() if value != []}
            if given["source"] in MAKERS:
                # A part of Python: its text differs between minor versions.
                spec = {"kind": "packaged", "python": f"{sys.version_info.major}.{sys.version_info.minor}", **given}
            else:
                mirror, local = self.config.assets.mirror, given.pop("local", [])
                spec = {"kind": "data", **given, **({"mirror": mirror, "local": local} if mirror else {})}
            self.files[name] = make_node("assets", [name], {"name": name, **spec}, [])
        return self.files[name]

    def _official(self, source: str, task: str) -> Node:
        """The node of an official file of finished samples."""
        path = str(official_file(source, task))
        spec = {"kind": "data", "name": OFFICIAL, "source": "file", "path": path}
        return make_node("assets", [OFFICIAL, task], spec, [])

    def _prompts(self, cell: Cell) -> Node:
        benchmark = self.config.benchmark[cell.benchmark]
        spec = {
            "kind": benchmark.kind,
            "task": cell.task,
            "length": cell.length,
            "seed": self.config.seed,
            "samples": _given(benchmark.samples),
            "chat_template": benchmark.chat_template,
            "positions": self.model.positions,
        }
        if benchmark.source is not None:
            files = [self._official(benchmark.source, cell.task)]
        else:
            files = [self._file(name) for name in registry.needs(benchmark.kind, cell.task, cell.length)]
        return make_node("prompts", [cell.task, cell.length, self.model.name], spec, [self.assets, *files])

    def _oracle(self, cell: Cell) -> Node:
        estimators = {name: dataclasses.asdict(estimator) for name, estimator in self.estimators.items()}
        parents = [self.assets, self.prompts[cell], self.dense[cell], *self.moments[cell.length]]
        spec = {**self._drawn(cell), **self.compute, **self.deciding, "estimators": estimators}
        return make_node("oracle", self._windowed(cell.task, cell.length), spec, parents)

    def _dense(self, cell: Cell) -> Node:
        words = [cell.task, cell.length, self.model.name]
        return make_node("dense", words, {**cell._asdict(), **self.compute}, [self.assets, self.prompts[cell]])

    def _probing(self, cell: Cell) -> list[Node]:
        """The nodes whose probes an evaluated cell is given: those of its calibration prompts."""
        if not self._records():
            return []
        for other in self._calibrating(cell):
            if other not in self.probes:
                spec = {**other._asdict(), "count": self.config.calibration.probes, **self.compute}
                spec |= {"prompts": self.chosen["prompts"]} if "prompts" in self.chosen else {}
                words = [other.task, other.length, self.model.name]
                parents = [self.assets, self.prompts[other], self.dense[other]]
                self.probes[other] = make_node("probes", words, spec, parents)
        return [self.probes[other] for other in self._calibrating(cell)]

    def _records(self) -> bool:
        """Whether any criterion needs margins of its own."""
        return any(has_margins(criterion) for criterion in self.criteria.values())

    def _margins(self, cell: Cell) -> Node:
        """The node with the margins of all criteria that have any: of some, oracle tables tell them too."""
        if cell not in self.margins:
            criteria = {
                name: {
                    "kind": recorded_kind(c),
                    "estimator": _plain(c.estimator),
                    "outliers": _plain(c.outliers),
                    "summaries": c.summaries,
                }
                for name, c in self.criteria.items()
                if recorded_kind(c) in WITH_MARGINS
            }
            spec = {**self._drawn(cell), **self.compute, **self.deciding, "criteria": criteria}
            parents = [self.assets, self.prompts[cell], self.dense[cell], *self.moments[cell.length]]
            parents += self._probing(cell)
            self.margins[cell] = make_node("margins", self._windowed(cell.task, cell.length), spec, parents)
        return self.margins[cell]

    def _windowed(self, *words: Any) -> list[Any]:
        scope = [f"prompt{chunk}" for chunk in self.chunk.values()]
        return [*words, self.model.name, f"s{self.window.sink}r{self.window.recent}", *scope]

    def _drawn(self, cell: Cell) -> Spec:
        """A cell and the seed of its prompts, by which figures tell several draws apart."""
        return {**cell._asdict(), "seed": self.config.seed}

    def _calibrating(self, cell: Cell) -> list[Cell]:
        """The cells whose calibration prompts criteria are fitted on: of the chosen tasks and length.

        None chosen: all tasks, the length that is nearest as a ratio.
        """
        chosen, tasks = self.config.calibration.length, self.config.calibration.tasks
        source = self.config.benchmark[cell.benchmark].calibrated_on or cell.benchmark
        lengths = self.config.benchmark[source].lengths
        length = chosen or min(lengths, key=lambda found: max(found / cell.length, cell.length / found))
        found = [other for other in self.cells if (other.benchmark, other.length) == (source, length)]
        return [other for other in found if tasks is None or other.task in tasks]

    def _calibrated(self, name: str, cell: Cell) -> Node | None:
        """The node that fits a criterion for an evaluated cell; what does not depend on its task is shared."""
        criterion = self.criteria[name]
        if criterion.calibrated_on is None:
            return None
        used = [cell] if criterion.calibrated_on == "evaluation" else self._calibrating(cell)
        among = any(other.task == cell.task for other in used)  # maybe at another length
        own = cell.task if among and criterion.calibrated_on != "calibration" else None
        if criterion.calibrated_on == "other_tasks":
            used = [other for other in used if other.task != cell.task]
        source, length, _ = used[0]
        if (name, source, length, own) not in self.calibration:
            estimator = criterion.estimator
            spec = {
                "criterion": name,
                "kind": criterion.kind,
                "calibrated_on": criterion.calibrated_on,
                "estimator": None if estimator is None else estimator.name,
                "unit": criterion.unit,
                **({"kv_heads": self.model.expect.kv_heads} if criterion.unit == "group" else {}),
                "fit": criterion.fit or ("energy" if criterion.kind in LOST_OUTPUT else "none"),
                "targets": self.config.calibration.targets,
                "benchmark": source,
                "length": length,
                "task": own,
                "seed": self.config.seed,
                **({} if criterion.calibrated_on == "evaluation" else self.chosen),
            }
            words = self._windowed(name, own or source, length)
            recorded = [self._margins(other) if has_margins(criterion) else self.oracle[other] for other in used]
            node = make_node("calibration", words, spec, recorded)
            self.calibration[name, source, length, own] = node
        return self.calibration[name, source, length, own]

    def _evaluation(self, cell: Cell) -> Node:
        calibrating = self._calibrating(cell)[0]
        spec = {
            **self._drawn(cell),
            "kind": self.config.benchmark[cell.benchmark].kind,
            "calibrating": {"benchmark": calibrating.benchmark, "length": calibrating.length},
            **self.deciding,
            "head_dim": self.model.expect.head_dim,
            "criteria": {name: dataclasses.asdict(criterion) for name, criterion in self.criteria.items()},
            "targets": self.config.calibration.targets,
            **self.compute,
        }
        calibrated = [self._calibrated(name, cell) for name in self.criteria]
        parents = [self.assets, self.prompts[cell], *self.moments[cell.length], *self._probing(cell)]
        parents += [node for node in calibrated if node is not None]
        return make_node("evaluation", self._windowed(cell.task, cell.length), spec, parents)

    def measured(self) -> list[Node]:
        """What figures read: every evaluation, oracle, margins and calibration node of the configuration."""
        evaluations = [self._evaluation(cell) for cell in self.cells]
        recorded = [self._margins(cell) for cell in self.cells] if self._records() else []
        return [*evaluations, *self.oracle.values(), *recorded, *self.calibration.values()]

    def diagnostics(self) -> list[Node]:
        """The diagnostics of every cell; jobs only where a figure reads them."""
        windows = {"window": _given(self.window), **_given(self.config.diagnostics)}
        return [
            make_node(
                "diagnostics",
                self._windowed(cell.task, cell.length),
                {**self._drawn(cell), **self.compute, **windows},
                [self.assets, self.prompts[cell], self.dense[cell]],
            )
            for cell in self.cells
        ]

    def figures(self, seeds: Sequence[int], parents: list[Node], diagnostics: list[Node]) -> list[Node]:
        """All figures, each reading all parents, or the diagnostics."""
        benchmarks = {
            name: {
                "tasks": found.tasks,
                "lengths": found.lengths,
                "most": "up to " if found.kind == "longbench" else "",  # a data set may have fewer
                "samples": found.samples.evaluation,
            }
            for name, found in sorted(self.config.benchmark.items())
        }
        common = {
            "title": {"model": self.model.name, "benchmarks": benchmarks, "seed": list(seeds), **self.chunk},
            "criteria": {name: {"kind": c.kind, "calibrated_on": c.calibrated_on} for name, c in self.criteria.items()},
        }
        lengths = "-".join(map(str, self.moments))
        return [
            make_node(
                "figures",
                self._windowed(name, lengths),
                {"figure": name, "params": figure.params, **common},
                diagnostics if figure.reads else parents,
            )
            for name, figure in self.config.figure.items()
        ]
