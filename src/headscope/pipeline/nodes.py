"""From one checked configuration to its jobs: each a stage, a slice of the options, and parents.

A node's key digests its slice, its parents' keys and its stage's code, so its address says all that made the result.
Tracking, results folder, cores and batch sizes are in no slice.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headscope.benchmarks.ruler import module_of
from headscope.pipeline.code import code_digest
from headscope.pipeline.files import canonical, digest
from headscope.pipeline.schema import Config

Spec = dict[str, Any]
KEY = re.compile(r"(?P<name>[\w.-]+)--(?P<digest>[0-9a-f]{10})")


@dataclass(frozen=True, eq=False)
class Node:
    """One job.

    Attributes:
        stage: module of headscope.pipeline.stages.
        name: for people.
        spec: the slice, as canonical JSON.
        parents: nodes that it reads, in the order of the command line.
    """

    stage: str
    name: str
    spec: str
    parents: tuple["Node", ...] = ()

    @cached_property
    def code(self) -> str:
        """Digest of the code that makes it."""
        return code_digest(*modules(self.stage, json.loads(self.spec)))

    @cached_property
    def key(self) -> str:
        """Name of its folder: readable, then the digest of slice, parents and code."""
        parents = [parent.key for parent in self.parents]
        return f"{self.name}--{key_digest(self.stage, json.loads(self.spec), parents, self.code)}"

    @property
    def address(self) -> str:
        """Its folder below the results folder."""
        return f"{self.stage}/{self.key}"


def key_digest(stage: str, spec: Spec, parents: Sequence[str], code: str) -> str:
    """Digest all that makes a result: slice, parents' keys and code."""
    return digest([stage, spec, list(parents), code])


def modules(stage: str, spec: Spec) -> list[str]:
    """Name the modules whose code makes a node: its stage and what its slice names; those they import follow."""
    criteria = [spec] if stage == "calibration" else spec.get("criteria", {}).values() if stage == "evaluation" else []
    used = [criterion.get("estimator") for criterion in criteria] if stage == "evaluation" else []
    used += spec.get("estimators", {}).values()
    found = {f"headscope.pipeline.stages.{stage}"}
    found |= {f"headscope.heads.criteria.{criterion['kind']}" for criterion in criteria}
    found |= {f"headscope.heads.estimators.{estimator['kind']}" for estimator in used if estimator}
    if stage == "prompts":
        found.add(module_of(spec["task"]))
    if stage == "figures":
        found.add(f"headscope.figures.{spec['figure']}")
    return sorted(found)


def figures(config: Config) -> list[Node]:
    """Return the figure nodes of one configuration; all other nodes are their ancestors."""
    return _Builder(config).figures()


def ancestors(nodes: list[Node]) -> Iterator[Node]:
    """Yield nodes and all they descend from, parents first, each address once."""
    seen: set[str] = set()

    def visit(node: Node) -> Iterator[Node]:
        if node.address not in seen:
            seen.add(node.address)
            for parent in node.parents:
                yield from visit(parent)
            yield node

    for node in nodes:
        yield from visit(node)


def _node(stage: str, words: list[Any], spec: Spec, parents: list[Node]) -> Node:
    return Node(stage, "-".join(str(word) for word in words), canonical(spec), tuple(parents))


def _given(options: Any) -> Spec:
    """An option group without what is null: an option that a later version adds changes no older key."""
    return {name: value for name, value in dataclasses.asdict(options).items() if value is not None}


class _Builder:
    """Makes the nodes of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config, self.model = config, config.model
        self.criteria = dict(sorted(config.criterion.items()))  # their order makes no other result
        self.benchmark, self.window = config.benchmark, config.window
        rope = None if self.model.rope is None else _given(self.model.rope)
        self.compute = {"dtype": self.model.dtype, "device": self.model.device, "rope": rope}
        self.compute["device_map"] = self.model.device_map
        self.assets = _node(
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
        text = self.benchmark.text
        # The packaged prose is a part of Python and differs between its minor versions.
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        self.text = _node("assets", [text.name], {"kind": "text", "python": python, **_given(text)}, [])
        self.estimators = {
            criterion.estimator.name: criterion.estimator
            for criterion in self.criteria.values()
            if criterion.estimator is not None
        }
        self.moments = {length: self._moments(length) for length in self.benchmark.lengths}
        cells = [(length, task) for length in self.benchmark.lengths for task in self.benchmark.tasks]
        self.prompts = {cell: self._prompts(*cell) for cell in cells}
        self.oracle = {cell: self._oracle(*cell) for cell in cells}
        self.calibration: dict[tuple[str, int, str | None], Node] = {}

    def _moments(self, length: int) -> list[Node]:
        texts = sorted({estimator.moments for estimator in self.estimators.values()} - {"prompt"})
        common = {"length": length, "seed": self.config.seed, "sink": self.window.sink, **self.compute}
        return [
            _node("moments", [text, length, self.model.name], {"text": text, **common}, [self.assets]) for text in texts
        ]

    def _prompts(self, length: int, task: str) -> Node:
        spec = {
            "benchmark": self.benchmark.name,
            "task": task,
            "length": length,
            "seed": self.config.seed,
            "samples": _given(self.benchmark.samples),
            "chat_template": self.benchmark.chat_template,
            "positions": self.model.positions,
        }
        return _node("prompts", [task, length, self.model.name], spec, [self.assets, self.text])

    def _oracle(self, length: int, task: str) -> Node:
        prompts, cell = self.prompts[length, task], {"task": task, "length": length, **self.compute}
        dense = _node("dense", [task, length, self.model.name], cell, [self.assets, prompts])
        estimators = {name: dataclasses.asdict(estimator) for name, estimator in self.estimators.items()}
        spec = {**cell, "window": _given(self.window), "estimators": estimators}
        parents = [self.assets, prompts, dense, *self.moments[length]]
        return _node("oracle", self._windowed(task, length), spec, parents)

    def _windowed(self, *words: Any) -> list[Any]:
        return [*words, self.model.name, f"s{self.window.sink}r{self.window.recent}"]

    def _calibrated(self, name: str, length: int, task: str) -> Node | None:
        """The node that fits a criterion for an evaluated task; thresholds are shared by all tasks of a length."""
        criterion = self.criteria[name]
        if criterion.calibrated_on is None:
            return None
        own = None if criterion.calibrated_on == "calibration" else task
        if (name, length, own) not in self.calibration:
            estimator = criterion.estimator
            spec = {
                "criterion": name,
                "kind": criterion.kind,
                "calibrated_on": criterion.calibrated_on,
                "estimator": None if estimator is None else estimator.name,
                "targets": self.config.calibration.targets,
                "length": length,
                "task": own,
            }
            used = {
                "calibration": self.benchmark.tasks,
                "other_tasks": [other for other in self.benchmark.tasks if other != task],
                "evaluation": [task],
            }[criterion.calibrated_on]
            words = self._windowed(name, *([own] if own else []), length)
            parents = [self.oracle[length, other] for other in used]
            self.calibration[name, length, own] = _node("calibration", words, spec, parents)
        return self.calibration[name, length, own]

    def _evaluation(self, length: int, task: str) -> Node:
        spec = {
            "task": task,
            "length": length,
            "window": _given(self.window),
            "criteria": {name: dataclasses.asdict(criterion) for name, criterion in self.criteria.items()},
            "targets": self.config.calibration.targets,
            **self.compute,
        }
        calibrated = [self._calibrated(name, length, task) for name in self.criteria]
        parents = [self.assets, self.prompts[length, task], *self.moments[length]]
        parents += [node for node in calibrated if node is not None]
        return _node("evaluation", self._windowed(task, length), spec, parents)

    def figures(self) -> list[Node]:
        """All figures, each reading every evaluation, oracle and calibration node of the configuration."""
        evaluations = [self._evaluation(*cell) for cell in self.prompts]
        parents = [*evaluations, *self.oracle.values(), *self.calibration.values()]
        lengths, criteria = self.benchmark.lengths, self.criteria.items()
        title = {
            "model": self.model.name,
            "lengths": lengths,
            "tasks": self.benchmark.tasks,
            "samples": self.benchmark.samples.evaluation,
            "seed": self.config.seed,
        }
        common = {
            "title": title,
            "criteria": {name: {"kind": c.kind, "calibrated_on": c.calibrated_on} for name, c in criteria},
        }
        return [
            _node(
                "figures",
                self._windowed(name, "-".join(map(str, lengths))),
                {"figure": name, "params": figure.params, **common},
                parents,
            )
            for name, figure in self.config.figure.items()
        ]
