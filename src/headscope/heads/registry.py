"""Members of the families criteria, estimators, outliers, selectors: their modules, and what a plan must know of each.

A member is a module `headscope.heads.<family>.<kind>`, or one that an installed distribution names by an entry point
`<kind>` of the group `headscope.<family>`. It declares what the plan must know in a literal `PLAN = {...}`, whose keys
are the attributes of the family's class below; without it, their defaults hold. The literal is read from the source: a
plan imports no member.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Literal, TypeVar

from headscope import source
from headscope.errors import ConfigError

Family = Literal["criteria", "estimators", "outliers", "selectors"]


@dataclass(frozen=True)
class CriterionPlan:
    """What the plan must know of a kind of criterion.

    Attributes:
        needs: options of a criterion that must be given: `calibrated_on`, `estimator`, `outliers`.
        measures: what its margins are. "share": log-odds of the window's share, by the exact or the estimated bulk
            mass, which oracle tables tell; "loss": minus the log norm of the output that a local head loses; "own":
            another number; None: no threshold decides.
        ranked_by: kind whose margins rank the heads where the window has outliers; None: its own margins decide.
    """

    needs: tuple[str, ...] = ()
    measures: Literal["share", "loss", "own"] | None = None
    ranked_by: str | None = None


@dataclass(frozen=True)
class KindOption:
    """An option of a kind of estimator or selector; null where the kind has none of it.

    Attributes:
        type: "int", "float", "str" or "bool".
        help: one line.
        default: None: it must be given.
        unit, low, high, choices: as of every option of the schema.
    """

    type: Literal["int", "float", "str", "bool"]
    help: str
    default: Any = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EstimatorPlan:
    """What the plan must know of a kind of estimator.

    Attributes:
        options: by name.
        probes: its summaries depend on the probes, where there are some.
        ragged: it serves KV heads with different numbers of keys at once.
        values: it knows the bulk's mean value too.
    """

    options: Mapping[str, KindOption] = field(default_factory=dict)
    probes: bool = False
    ragged: bool = False
    values: bool = False


@dataclass(frozen=True)
class OutlierPlan:
    """What the plan must know of a rule for outliers.

    Attributes:
        probes: it needs probes.
        queries: it needs the context's last queries.
        across_heads: its importances compare between heads, so that heads can share outliers.
    """

    probes: bool = False
    queries: bool = False
    across_heads: bool = False


@dataclass(frozen=True)
class SelectorPlan:
    """What the plan must know of a kind of selector.

    Attributes:
        options: by name.
    """

    options: Mapping[str, KindOption] = field(default_factory=dict)


Plan = TypeVar("Plan", CriterionPlan, EstimatorPlan, OutlierPlan, SelectorPlan)
WithOptions = TypeVar("WithOptions", EstimatorPlan, SelectorPlan)


@cache
def kinds(family: Family) -> tuple[str, ...]:
    """Return the kinds of a family: ours, then those of entry points."""
    files = source.SOURCE.joinpath("heads", family).glob("*.py")
    ours = sorted(file.stem for file in files if file.stem != "__init__")
    return (*ours, *sorted(set(_entry_points(family)) - set(ours)))


@cache
def module(family: Family, kind: str) -> str:
    """Return the name of a member's module.

    Raises:
        ConfigError: there is none, naming the nearest kind.
    """
    ours = f"headscope.heads.{family}.{kind}"
    if kind.isidentifier() and source.source_file(ours):
        return ours
    if kind not in _entry_points(family):
        [near] = get_close_matches(kind, kinds(family), n=1, cutoff=0)
        raise ConfigError(f"no module {ours} and no entry point {kind!r} of headscope.{family}; nearest: {near}")
    return _entry_points(family)[kind]


def load(family: Family, kind: str) -> ModuleType:
    """Import a member."""
    return import_module(module(family, kind))


@cache
def criterion(kind: str) -> CriterionPlan:
    """Read what a kind of criterion declares."""
    return _read(CriterionPlan, "criteria", kind)


@cache
def estimator(kind: str) -> EstimatorPlan:
    """Read what a kind of estimator declares."""
    return _with_options(_read(EstimatorPlan, "estimators", kind), module("estimators", kind))


@cache
def selector(kind: str) -> SelectorPlan:
    """Read what a kind of selector declares."""
    return _with_options(_read(SelectorPlan, "selectors", kind), module("selectors", kind))


def options_of(family: Family, kind: str) -> Mapping[str, KindOption]:
    """Return the options that a kind of estimator or selector declares, by name."""
    return estimator(kind).options if family == "estimators" else selector(kind).options


@cache
def outlier_rule(kind: str) -> OutlierPlan:
    """Read what a rule for outliers declares."""
    return _read(OutlierPlan, "outliers", kind)


def completed(spec: Mapping[str, Any], family: Family = "estimators") -> dict[str, Any]:
    """Return an estimator's or selector's slice with its kind's defaults, and without null options of other kinds."""
    options = options_of(family, spec["kind"])
    defaults = {name: option.default for name, option in options.items() if option.default is not None}
    return {**defaults, **{name: value for name, value in spec.items() if value is not None}}


@cache
def _entry_points(family: Family) -> dict[str, str]:
    """Return modules of other distributions by kind."""
    return {point.name: point.module for point in entry_points(group=f"headscope.{family}")}


def _read(cls: type[Plan], family: Family, kind: str) -> Plan:
    """Read a member's `PLAN`; one without declares nothing.

    Raises:
        ConfigError: the module has no Python file, or its `PLAN` is no literal with the class's keys.
    """
    name = module(family, kind)
    file = source.source_file(name)
    if file is None:
        raise ConfigError(f"module {name} of headscope.{family} has no Python file")
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["PLAN"]:
            try:
                return cls(**ast.literal_eval(node.value))
            except (TypeError, ValueError) as error:
                known = ", ".join(vars(cls()))
                raise ConfigError(f"{file}: PLAN must be a literal with keys among {known} ({error})") from error
    return cls()


def _with_options(plan: WithOptions, name: str) -> WithOptions:
    """Turn the options that a module declares into options."""
    try:
        return replace(plan, options={option: KindOption(**declared) for option, declared in plan.options.items()})  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"{name}: PLAN's options: {error}") from error
