"""Which fits and rules of calibration go with which criteria. Never imports torch."""

from headscope.errors import ConfigError
from headscope.pipeline.node import LOST_OUTPUT
from headscope.pipeline.schema import Config, Criterion

FITTED = ("qada", *LOST_OUTPUT)
"""Kinds of criteria whose margins a map may calibrate."""


def check_calibration(config: Config) -> None:
    """Refuse a fit or a rule that has no meaning for a criterion.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    for name, criterion in config.criterion.items():
        _fit(f"criterion.{name}.fit", criterion)
        if criterion.calibrated_on is not None:
            _rule(name, criterion, config.calibration.rule)
    if config.calibration.rule == "coverage":
        _coverage(config)


def _fit(option: str, criterion: Criterion) -> None:
    if criterion.fit is not None and criterion.kind not in FITTED:
        raise ConfigError(
            f"option {option}: {criterion.fit} has no meaning for kind {criterion.kind}, which has no margins to"
            f" calibrate; leave it out (kinds with fits: {', '.join(FITTED)})"
        )
    if criterion.fit == "energy" and criterion.kind not in LOST_OUTPUT:
        raise ConfigError(
            f"option {option}: energy matches lost outputs, and kind {criterion.kind} has none; use none"
            f" (kinds with energies: {', '.join(LOST_OUTPUT)})"
        )


def _rule(name: str, criterion: Criterion, rule: str) -> None:
    option = f"option calibration.rule: {rule} has no meaning for criterion {name}"
    leave = f"use calibration.rule=sparsity or leave the criterion out (~criterion.{name})"
    if rule != "sparsity" and criterion.kind == "static":
        raise ConfigError(f"{option} of kind static, which ranks heads without a threshold; {leave}")
    if rule == "tau" and criterion.kind in LOST_OUTPUT:
        raise ConfigError(f"{option} of kind {criterion.kind}, whose margins are no shares; {leave}")
    if rule == "tau" and criterion.fit == "logistic":
        raise ConfigError(f"{option} with criterion.{name}.fit logistic, whose margins are no shares; {leave}")


def _coverage(config: Config) -> None:
    """A promise for new prompts takes prompts: k of them promise at most k / (k + 1)."""
    most = max(config.calibration.targets)
    for name, benchmark in config.benchmark.items():
        source = benchmark.calibrated_on or name
        prompts = config.benchmark[source].samples.calibration * len(config.benchmark[source].tasks)
        if most * (prompts + 1) > prompts:
            raise ConfigError(
                f"option calibration.targets: coverage {most} is beyond what {prompts} calibration prompts of {source}"
                f" can promise, {prompts / (prompts + 1):.3f}; lower it or raise benchmark.{source}.samples.calibration"
            )
