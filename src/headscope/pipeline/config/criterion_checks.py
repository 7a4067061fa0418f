"""Criteria, their estimators and outliers: each has the options that its kind needs. Never imports torch."""

from collections.abc import Mapping
from typing import Any

from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.heads.registry import Family
from headscope.pipeline.config.kind_options import TYPES
from headscope.pipeline.config.names import known_kind
from headscope.pipeline.config.options import Option
from headscope.pipeline.config.schema import Config, Criterion, Outliers


def check_criteria(config: Config) -> None:
    """Refuse criteria with options that are missing or mean nothing.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    if not config.criterion:
        raise ConfigError("option criterion: name at least one, e.g. criterion=[dense,local,oracle]")
    for name, criterion in config.criterion.items():
        known_kind(f"criterion.{name}.kind", "criteria", criterion.kind)
        for need in registry.criterion(criterion.kind).needs:
            if getattr(criterion, need) is None:
                raise ConfigError(f"option criterion.{name}.{need} must be given: kind {criterion.kind} needs it")
        _outliers(f"criterion.{name}.outliers", criterion.outliers)
        _engine_options(f"criterion.{name}", criterion)
        _selector(f"criterion.{name}", criterion, config)
        _other_tasks(name, criterion, config)
    _estimators(config)


def _engine_options(option: str, criterion: Criterion) -> None:
    """Refuse a unit or streaming summaries where there is nothing to decide together or to update."""
    if criterion.unit == "group" and registry.criterion(criterion.kind).measures is None:
        raise ConfigError(
            f"option {option}.unit: group has no meaning for kind {criterion.kind}, which labels heads without margins;"
            " leave it out"
        )
    if criterion.summaries == "streaming" and criterion.estimator is None:
        raise ConfigError(
            f"option {option}.summaries: streaming has no meaning for kind {criterion.kind} without an estimator;"
            " leave it out"
        )


def _other_tasks(name: str, criterion: Criterion, config: Config) -> None:
    """Refuse to fit a criterion on the other tasks where there are none."""
    for own, benchmark in config.benchmark.items():
        fitted = config.calibration.tasks or config.benchmark[benchmark.calibrated_on or own].tasks
        if criterion.calibrated_on == "other_tasks" and len(fitted) == 1 and fitted[0] in benchmark.tasks:
            where = f"benchmark.{own}.tasks" if config.calibration.tasks is None else "calibration.tasks"
            raise ConfigError(
                f"option criterion.{name}.calibrated_on: other_tasks needs at least two {where}, there is only {fitted}"
            )


def _estimators(config: Config) -> None:
    seen: dict[str, tuple[str, Any]] = {}
    for name, criterion in config.criterion.items():
        option, estimator = f"criterion.{name}.estimator", criterion.estimator
        if estimator is None:
            continue
        known_kind(f"{option}.kind", "estimators", estimator.kind)
        other, named = seen.setdefault(estimator.name, (name, estimator))
        if estimator != named:
            raise ConfigError(
                f"option {option}.name: {estimator.name!r} is already another estimator, that of criterion {other};"
                " give one of the two a name of its own"
            )
        _check_options(option, "estimators", vars(estimator))
        if registry.criterion(criterion.kind).measures == "loss" and not registry.estimator(estimator.kind).values:
            raise ConfigError(
                f"option {option}.kind: {criterion.kind} needs the bulk's mean value, which {estimator.kind} does not"
                " know; choose another estimator"
            )
        if criterion.outliers and criterion.outliers.shared and not registry.estimator(estimator.kind).ragged:
            raise ConfigError(
                f"option criterion.{name}.outliers.shared: {criterion.outliers.shared} leaves KV heads with different"
                f" numbers of keys, which {estimator.kind} does not serve; choose criterion.{name}.outliers.shared=0"
            )


def _selector(option: str, criterion: Criterion, config: Config) -> None:
    """Refuse a selector whose budget is not known, or where it is not served."""
    if (selector := criterion.selector) is None:
        return
    known_kind(f"{option}.selector.kind", "selectors", selector.kind)
    _check_options(f"{option}.selector", "selectors", vars(selector))
    if rule := vars(selector).get("rule"):
        known_kind(f"{option}.selector.rule", "outliers", rule)
    if criterion.kind != "dense":
        raise ConfigError(
            f"option {option}.selector: {selector.kind} chooses keys of groups that all read, which kind"
            f" {criterion.kind} does not let; choose {option}.kind=dense"
        )
    if criterion.outliers is not None:
        raise ConfigError(
            f"option {option}.outliers: {criterion.outliers.rule} takes keys of the bulk from {selector.kind}, which"
            " chooses among all of them; leave outliers out"
        )
    if config.calibration.rule != "kv_bytes":
        raise ConfigError(
            f"option {option}.selector: {selector.kind} reads as many keys as a share of the KV bytes pays; choose"
            " calibration.rule=kv_bytes, whose targets are such shares"
        )
    if config.scope == "prompt":
        raise ConfigError(
            f"option {option}.selector: {selector.kind} chooses behind the context alone; choose scope=question"
        )


def _check_options(path: str, family: Family, options: Mapping[str, Any]) -> None:
    """Refuse options of another kind, options that are missing, and values that this kind does not take."""
    kind = options["kind"]
    values = {name: value for name, value in options.items() if name not in ("name", "kind")}
    own = registry.options_of(family, kind)
    for name, value in values.items():
        if name not in own and value is not None:
            raise ConfigError(f"option {path}.{name}: {value} has no meaning for {kind}; leave it out")
    for name, option in own.items():
        if values.get(name) is None:
            raise ConfigError(f"option {path}.{name} must be given: {kind} needs it")
        metadata = {"unit": option.unit, "low": option.low, "high": option.high, "choices": tuple(option.choices)}
        Option(path, TYPES[option.type], False, False, option.default, metadata).check(f"{path}.{name}", values[name])


def _outliers(option: str, outliers: Outliers | None) -> None:
    if outliers is None:
        return
    known_kind(f"{option}.rule", "outliers", outliers.rule)
    if outliers.shared and not registry.outlier_rule(outliers.rule).across_heads:
        able = [rule for rule in registry.kinds("outliers") if registry.outlier_rule(rule).across_heads]
        raise ConfigError(
            f"option {option}.shared: {outliers.shared} needs importances that compare between heads, which"
            f" {outliers.rule} does not give; choose {option}.shared=0 or rule {' or '.join(able)}"
        )
