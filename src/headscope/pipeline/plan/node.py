"""One job of the plan: a stage, a slice of the options, and parents; its key says all that makes its result."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headscope.benchmarks import registry as benchmarks
from headscope.heads import registry
from headscope.pipeline.assets.packaged import MAKERS
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.store.files import canonical, digest

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
    found = {f"headscope.pipeline.stages.{stage}"}
    if stage in ("evaluation", "margins"):
        found |= {module for criterion in spec["criteria"].values() for module in criterion_modules(criterion)}
    if stage == "calibration":
        found.add(registry.module("criteria", spec["kind"]))
        if estimator := spec.get("budget", {}).get("estimator"):  # which says how much its summaries are
            found.add(registry.module("estimators", estimator["kind"]))
    if stage == "oracle":
        found |= {registry.module("estimators", estimator["kind"]) for estimator in spec["estimators"].values()}
    if stage == "assets":
        found.add(f"headscope.pipeline.assets.{spec['kind']}")
        found |= {MAKERS[spec["source"]][0]} if spec["kind"] == "packaged" else set()
    if stage == "prompts":
        found |= {benchmarks.module_of(spec["kind"], spec["task"]), f"headscope.benchmarks.{spec['kind']}.prompts"}
    if stage == "evaluation":
        found.add(f"headscope.benchmarks.{spec['kind']}.metrics")
    if stage == "figures":
        found.add(f"headscope.figures.{spec['figure']}")
    return sorted(found)


def criterion_modules(criterion: Mapping[str, Any]) -> list[str]:
    """Name the modules that make a criterion: its own, its estimator's, its selector's, and its outlier rule's."""
    estimator, outliers, selector = criterion["estimator"], criterion["outliers"], criterion.get("selector")
    names = [registry.module("criteria", criterion["kind"])]
    names += [registry.module("estimators", estimator["kind"])] if estimator else []
    names += [registry.module("selectors", selector["kind"])] if selector else []
    names += [registry.module("outliers", selector["rule"])] if selector and selector.get("rule") else []
    return names + ([registry.module("outliers", outliers["rule"])] if outliers else [])


def asks_probes(criterion: Mapping[str, Any]) -> bool:
    """Return whether what a criterion decides or reads depends on the probes."""
    estimator = criterion["estimator"]
    of_estimator = estimator is not None and registry.estimator(estimator["kind"]).probes
    rules = [(criterion[option] or {}).get("rule") for option in ("outliers", "selector") if option in criterion]
    return of_estimator or any(registry.outlier_rule(rule).probes for rule in rules if rule is not None)


def ancestors(nodes: Iterable[Node]) -> Iterator[Node]:
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


def make_node(stage: str, words: list[Any], spec: Spec, parents: list[Node]) -> Node:
    """Make a node; `words` are its readable name."""
    return Node(stage, "-".join(str(word) for word in words), canonical(spec), tuple(parents))
