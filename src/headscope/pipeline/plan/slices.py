"""Slices: what each stage may read of a configuration.

Tracking, results folder, cores and batch sizes are in no slice, so they renew no result.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headscope.benchmarks.row import OFFICIAL
from headscope.heads import registry
from headscope.pipeline.assets.packaged import MAKERS
from headscope.pipeline.config.schema import Config, Criterion
from headscope.pipeline.plan.cells import Cell, calibration_cells
from headscope.pipeline.plan.node import Spec, asks_probes
from headscope.pipeline.store.versions import ENGINE, release

CHUNK = 256
"""Tokens of a chunk of `scope=prompt`, unless the option says another number."""


def without_null(options: Any) -> Spec:
    """Return an option group without null values: an option that a later version adds changes no older key."""
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}


def options_of(criterion: Criterion) -> Spec:
    """Return a criterion's options; its estimator's and selector's without those of other kinds, which are null."""
    options = dataclasses.asdict(criterion)
    selector = options.pop("selector")
    estimator = None if criterion.estimator is None else without_null(criterion.estimator)
    return {**options, "estimator": estimator, **({"selector": without_null(criterion.selector)} if selector else {})}


def has_margins(criterion: Criterion) -> bool:
    """Return True if a criterion's margins are recorded: oracle tables know shares, the plain window and no probes."""
    streams = criterion.estimator is not None and criterion.summaries == "streaming"
    untold = registry.criterion(criterion.kind).measures in ("loss", "own")
    return criterion.outliers is not None or untold or streams or asks_probes(dataclasses.asdict(criterion))


class Slices:
    """Cuts the slices of one configuration.

    Attributes:
        config: the configuration.
        criteria: by name, in alphabetical order: the configuration's order makes no other result.
        chunk: `chunk`, or empty: keys of `scope=question` do not depend on it.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.criteria = dict(sorted(config.criterion.items()))
        self._options = {name: options_of(criterion) for name, criterion in self.criteria.items()}
        self._with_margins = {name for name, criterion in self.criteria.items() if has_margins(criterion)}
        self.chunk = {"chunk": config.chunk or CHUNK} if config.scope == "prompt" else {}
        self._deciding = {"window": without_null(config.window), **self.chunk}
        model = config.model
        rope = None if model.rope is None else without_null(model.rope)
        # Filled here and not where options are composed, because compositions are cached.
        self._versions = {name: getattr(config.versions, name) or release(name) for name in ENGINE}
        where = {"dtype": model.dtype, "device": model.device, "device_map": model.device_map}
        self._compute = {**where, "rope": rope, "versions": self._versions}
        calibration = {"tasks": config.calibration.tasks, "prompts": config.calibration.prompts}
        self._calibration = {name: value for name, value in calibration.items() if value is not None}

    def window_words(self) -> list[str]:
        """Return the words for window and scope in a node's name."""
        window = self.config.window
        return [f"s{window.sink}r{window.recent}", *(f"prompt{chunk}" for chunk in self.chunk.values())]

    def model(self) -> Spec:
        """Cut the slice of the model's assets."""
        model = self.config.model
        source, expect = without_null(model.source), without_null(model.expect)
        return {"kind": "model", "name": model.name, "source": source, "expect": expect}

    def file(self, name: str) -> Spec:
        """Cut the slice of a benchmark's file."""
        options = without_null(self.config.assets.files[name])
        spec = {"name": name, **{option: value for option, value in options.items() if value != []}}
        if spec["source"] in MAKERS:
            # A part of Python: its text differs between minor versions.
            return {**spec, "kind": "packaged", "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
        mirror, local = self.config.assets.mirror, spec.pop("local", [])
        return {**spec, "kind": "data", **({"mirror": mirror, "local": local} if mirror else {})}

    def official_file(self, source: str, task: str) -> Spec:
        """Cut the slice of a task's file in a folder of official samples."""
        folder = Path(source).expanduser()
        file = folder / task / "validation.jsonl"  # the name that RULER's scripts write
        path = file if file.is_file() else folder / f"{task}.jsonl"
        return {"kind": "data", "name": OFFICIAL, "source": "file", "path": str(path)}

    def texts(self) -> list[str]:
        """Name the texts other than the prompt whose moments an estimator uses."""
        estimators = [options["estimator"] or {} for options in self._options.values()]
        return sorted({estimator.get("moments", "prompt") for estimator in estimators} - {"prompt"})

    def moments(self, text: str, length: int) -> Spec:
        """Cut the slice of a text's moments."""
        common = {"seed": self.config.seed, "sink": self.config.window.sink, **self._compute}
        return {"text": text, "length": length, **common}

    def prompts(self, cell: Cell) -> Spec:
        """Cut the slice of a cell's prompts."""
        benchmark = self.config.benchmark[cell.benchmark]
        return {
            "kind": benchmark.kind,
            "task": cell.task,
            "length": cell.length,
            "seed": self.config.seed,
            "samples": without_null(benchmark.samples),
            "chat_template": benchmark.chat_template,
            "positions": self.config.model.positions,
            "versions": {"transformers": self._versions["transformers"]},
        }

    def dense(self, cell: Cell) -> Spec:
        """Cut the slice of a cell's dense answers."""
        return {**cell._asdict(), **self._compute}

    def probes(self, cell: Cell) -> Spec:
        """Cut the slice of the probes of a cell's calibration prompts."""
        prompts = {name: value for name, value in self._calibration.items() if name == "prompts"}
        return {**self.dense(cell), "count": self.config.calibration.probes, **prompts}

    def reads_probes(self) -> bool:
        """Return True if a criterion's margins are recorded, or what it reads may depend on probes."""
        return bool(self._with_margins)

    def has_margins(self) -> bool:
        """Return True if any criterion needs margins of its own."""
        return any(self._recorded_kind(self.criteria[name]) for name in self._with_margins)

    def oracle(self, cell: Cell) -> Spec:
        """Cut the slice of a cell's masses, with the estimators whose masses are all that their criteria need."""
        estimators = {
            options["estimator"]["name"]: options["estimator"]
            for name, options in self._options.items()
            if options["estimator"] is not None and name not in self._with_margins
        }
        return {**self._measured(cell), "estimators": estimators}

    def margins(self, cell: Cell) -> Spec:
        """Cut the slice of a cell's margins, with all criteria that have any: of some, oracle tables tell them too."""
        criteria = {}
        for name, criterion in self.criteria.items():
            if kind := self._recorded_kind(criterion):
                recorded = {option: self._options[name][option] for option in ("estimator", "outliers", "summaries")}
                criteria[name] = {"kind": kind, **recorded}
        return {**self._measured(cell), "criteria": criteria}

    def _recorded_kind(self, criterion: Criterion) -> str | None:
        """Return the kind whose margins are recorded for a criterion; None if it has none."""
        ranked_by = registry.criterion(criterion.kind).ranked_by if criterion.outliers is not None else None
        kind = ranked_by or criterion.kind  # with outliers, a ranking ranks heads by the exact share there
        return kind if registry.criterion(kind).measures is not None else None

    def _measured(self, cell: Cell) -> Spec:
        """Return what all measurements read; figures tell draws of prompts apart by their seed."""
        return {**cell._asdict(), "seed": self.config.seed, **self._compute, **self._deciding}

    def calibration(self, name: str, source: Cell, task: str | None) -> Spec:
        """Cut the slice of a criterion's calibration on the cells of `source`, for one task or (None) for all."""
        criterion = self.criteria[name]
        return {
            "criterion": name,
            "kind": criterion.kind,
            "calibrated_on": criterion.calibrated_on,
            "estimator": None if criterion.estimator is None else criterion.estimator.name,
            "unit": criterion.unit,
            **({"kv_heads": self.config.model.expect.kv_heads} if criterion.unit == "group" else {}),
            "targets": self.config.calibration.targets,
            **self._budget(name),
            "benchmark": source.benchmark,
            "length": source.length,
            "task": task,
            "seed": self.config.seed,
            **({} if criterion.calibrated_on == "evaluation" else self._calibration),
        }

    def _budget(self, name: str) -> Spec:
        """Return what tells how many bytes a query of a criterion reads; nothing where targets are no such shares."""
        if self.config.calibration.rule != "kv_bytes":
            return {}
        options, expect = self._options[name], self.config.model.expect
        sizes = {"kv_heads": expect.kv_heads, "head_dim": expect.head_dim, "window": self._deciding["window"]}
        return {"budget": {**sizes, "outliers": options["outliers"], "estimator": options["estimator"]}}

    def evaluation(self, cell: Cell) -> Spec:
        """Cut the slice of a cell's evaluation."""
        source = calibration_cells(self.config, cell)[0]
        return {
            **self._measured(cell),
            "kind": self.config.benchmark[cell.benchmark].kind,
            "calibrating": {"benchmark": source.benchmark, "length": source.length},
            "head_dim": self.config.model.expect.head_dim,
            "criteria": self._options,
            "targets": self.config.calibration.targets,
        }

    def figure(self, name: str, seeds: Sequence[int]) -> Spec:
        """Cut the slice of a figure that pools several seeds."""
        benchmarks = {
            benchmark_name: {
                "tasks": benchmark.tasks,
                "lengths": benchmark.lengths,
                "most": "up to " if benchmark.kind == "longbench" else "",  # a data set may have fewer
                "samples": benchmark.samples.evaluation,
            }
            for benchmark_name, benchmark in sorted(self.config.benchmark.items())
        }
        rule = self.config.calibration.rule
        title = {"model": self.config.model.name, "benchmarks": benchmarks, "seed": list(seeds), **self.chunk}
        if rule != "sparsity":
            title["rule"] = rule
        criteria = {
            criterion_name: {"kind": criterion.kind, "calibrated_on": criterion.calibrated_on}
            for criterion_name, criterion in self.criteria.items()
        }
        return {"figure": name, "params": self.config.figure[name].params, "title": title, "criteria": criteria}
