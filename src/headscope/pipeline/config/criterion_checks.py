"""Criteria, their estimators and outliers: each has the options that its kind needs. Never imports torch."""

from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.names import module_file, unique
from headscope.pipeline.config.schema import Config, Estimator, OutlierOptions, WindowOutliers
from headscope.pipeline.plan.node import ACROSS_HEADS

NEEDS = {
    "oracle": ("calibrated_on",),
    "oracle_output": ("calibrated_on",),
    "static": ("calibrated_on",),
    "qada": ("calibrated_on", "estimator"),
    "lost_output": ("calibrated_on", "estimator"),
}
OF_ESTIMATORS = {
    "gaussian": (),
    "low_rank": ("rank",),  # a gaussian's covariance
    "clusters": ("clusters", "bits"),
    "blocks": ("block", "top"),
    "low_rank_keys": ("rank", "bits"),
    "sampled": ("count",),
}


def check_criteria(config: Config) -> None:
    """Refuse criteria with options that are missing or mean nothing.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    _criteria(config)
    _estimators(config)


def _criteria(config: Config) -> None:
    _outliers("window.outliers", config.window.outliers)
    if not config.criterion:
        raise ConfigError("option criterion: name at least one, e.g. criterion=[dense,local,oracle]")
    for name, criterion in config.criterion.items():
        module_file(f"criterion.{name}.kind", "heads.criteria", criterion.kind)
        for need in NEEDS.get(criterion.kind, ()):
            if getattr(criterion, need) is None:
                raise ConfigError(f"option criterion.{name}.{need} must be given: kind {criterion.kind} needs it")
        if criterion.correction and "estimator" not in NEEDS.get(criterion.kind, ()):
            kinds = ", ".join(kind for kind, needs in NEEDS.items() if "estimator" in needs)
            raise ConfigError(
                f"option criterion.{name}.correction: true has no meaning for kind {criterion.kind}, which estimates"
                f" no bulk; leave it out (kinds with corrections: {kinds})"
            )
        _outliers(f"criterion.{name}.outliers", criterion.outliers)
        for own, benchmark in config.benchmark.items():
            fitted = config.calibration.tasks or config.benchmark[benchmark.calibrated_on or own].tasks
            if criterion.calibrated_on == "other_tasks" and len(fitted) == 1 and fitted[0] in benchmark.tasks:
                where = f"benchmark.{own}.tasks" if config.calibration.tasks is None else "calibration.tasks"
                raise ConfigError(
                    f"option criterion.{name}.calibrated_on: other_tasks needs at least two {where},"
                    f" there is only {fitted}"
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
        _estimator(f"criterion.{name}.estimator", estimator, config.model.expect.head_dim)


def _estimator(option: str, estimator: Estimator, head_dim: int) -> None:
    """An estimator has the options that its kind needs, and no others'."""
    kind = estimator.kind
    if kind == "scored":
        raise ConfigError(f"option {option}.kind: scored is no kind; name that of the rest, and give {option}.scored")
    if kind == "gaussian" and estimator.covariance == "low_rank":
        kind = "low_rank"
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
    if estimator.values == "covariance" and estimator.kind != "gaussian":
        raise ConfigError(f"option {option}.values: covariance is for kind gaussian, not {kind}; leave it out")
    if estimator.values == "covariance" and estimator.moments != "prompt":
        raise ConfigError(
            f"option {option}.values: covariance needs the keys of the values, not those of {estimator.moments};"
            f" use {option}.moments=prompt or {option}.values=mean"
        )
    if estimator.rank is not None and estimator.rank > head_dim:
        raise ConfigError(f"option {option}.rank: {estimator.rank} is beyond the model's head_dim {head_dim}")
    _rules(f"{option}.scored", estimator.scored)


def _outliers(option: str, outliers: WindowOutliers | None) -> None:
    _rules(option, outliers)
    if outliers is not None and outliers.shared and any(rule not in ACROSS_HEADS for rule in outliers.rules):
        raise ConfigError(
            f"option {option}.shared: {outliers.shared} needs importances that compare between heads, which"
            f" {', '.join(outliers.rules)} does not give; choose {option}.shared=0 or rules {list(ACROSS_HEADS)}"
        )


def _rules(option: str, outliers: OutlierOptions | None) -> None:
    if outliers is not None:
        unique(f"{option}.rules", outliers.rules)
        for rule in outliers.rules:
            module_file(f"{option}.rules", "heads.outliers", rule)
