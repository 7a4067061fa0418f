"""Criteria, their estimators and outliers: each has the options that its kind needs. Never imports torch."""

from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.names import module_file
from headscope.pipeline.config.schema import Config, Criterion, Estimator, Outliers
from headscope.pipeline.plan.node import ACROSS_HEADS

NEEDS = {
    "oracle": ("calibrated_on",),
    "oracle_output": ("calibrated_on",),
    "static": ("calibrated_on",),
    "qada": ("calibrated_on", "estimator"),
    "lost_output": ("calibrated_on", "estimator"),
}
LABELS_ALONE = ("dense", "local", "static")
"""Kinds that label heads without a margin."""
OF_ESTIMATORS = {
    "gaussian": (),
    "clusters": ("clusters", "bits"),
}


def check_criteria(config: Config) -> None:
    """Refuse criteria with options that are missing or mean nothing.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    _criteria(config)
    _estimators(config)


def _criteria(config: Config) -> None:
    if not config.criterion:
        raise ConfigError("option criterion: name at least one, e.g. criterion=[dense,local,oracle]")
    for name, criterion in config.criterion.items():
        module_file(f"criterion.{name}.kind", "heads.criteria", criterion.kind)
        for need in NEEDS.get(criterion.kind, ()):
            if getattr(criterion, need) is None:
                raise ConfigError(f"option criterion.{name}.{need} must be given: kind {criterion.kind} needs it")
        _outliers(f"criterion.{name}.outliers", criterion.outliers)
        _engine_options(f"criterion.{name}", criterion)
        for own, benchmark in config.benchmark.items():
            fitted = config.calibration.tasks or config.benchmark[benchmark.calibrated_on or own].tasks
            if criterion.calibrated_on == "other_tasks" and len(fitted) == 1 and fitted[0] in benchmark.tasks:
                where = f"benchmark.{own}.tasks" if config.calibration.tasks is None else "calibration.tasks"
                raise ConfigError(
                    f"option criterion.{name}.calibrated_on: other_tasks needs at least two {where},"
                    f" there is only {fitted}"
                )


def _engine_options(option: str, criterion: Criterion) -> None:
    """Refuse a unit or streaming summaries where there is nothing to decide together or to update."""
    if criterion.unit == "group" and criterion.kind in LABELS_ALONE:
        raise ConfigError(
            f"option {option}.unit: group has no meaning for kind {criterion.kind}, which labels heads without margins;"
            " leave it out"
        )
    if criterion.summaries == "streaming" and criterion.estimator is None:
        raise ConfigError(
            f"option {option}.summaries: streaming has no meaning for kind {criterion.kind} without an estimator;"
            " leave it out"
        )


def _estimators(config: Config) -> None:
    seen: dict[str, tuple[str, Any]] = {}
    for name, criterion in config.criterion.items():
        if criterion.estimator is None:
            continue
        module_file(f"criterion.{name}.estimator.kind", "heads.estimators", criterion.estimator.kind)
        other, estimator = seen.setdefault(criterion.estimator.name, (name, criterion.estimator))
        if estimator != criterion.estimator:
            raise ConfigError(
                f"option criterion.{name}.estimator.name: {estimator.name!r} is already another estimator,"
                f" that of criterion {other}; give one of the two a name of its own"
            )
        _estimator(f"criterion.{name}.estimator", estimator)


def _estimator(option: str, estimator: Estimator) -> None:
    """An estimator has the options that its kind needs, and no others'."""
    kind = estimator.kind
    for need in sorted({need for needs in OF_ESTIMATORS.values() for need in needs}):
        wanted, value = need in OF_ESTIMATORS.get(kind, ()), getattr(estimator, need)
        if wanted and value is None:
            raise ConfigError(f"option {option}.{need} must be given: {kind} needs it")
        if value is not None and not wanted:
            raise ConfigError(f"option {option}.{need}: {value} has no meaning for {kind}; leave it out")
    if kind == "clusters" and estimator.covariance not in ("full", "diagonal"):
        raise ConfigError(
            f"option {option}.covariance: {estimator.covariance!r} is not for clusters; choose full or diagonal"
        )


def _outliers(option: str, outliers: Outliers | None) -> None:
    if outliers is None:
        return
    module_file(f"{option}.rule", "heads.outliers", outliers.rule)
    if outliers.shared and outliers.rule not in ACROSS_HEADS:
        raise ConfigError(
            f"option {option}.shared: {outliers.shared} needs importances that compare between heads, which"
            f" {outliers.rule} does not give; choose {option}.shared=0 or rule {' or '.join(ACROSS_HEADS)}"
        )
