"""Check which fits go with which criteria, and which calibration prompts there are. Never imports torch."""

from headscope.errors import ConfigError
from headscope.pipeline.config.options import nearest
from headscope.pipeline.config.schema import Benchmark, Calibration, Config, Criterion
from headscope.pipeline.plan.node import LOST_OUTPUT

FITTED = ("qada", *LOST_OUTPUT)
"""Kinds of criteria whose margins a map may calibrate."""


def check_calibration(config: Config) -> None:
    """Refuse a fit that has no meaning for a criterion, and calibration prompts that no benchmark has.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    for name, criterion in config.criterion.items():
        _fit(f"criterion.{name}.fit", criterion)
    for name in sorted({benchmark.calibrated_on or own for own, benchmark in config.benchmark.items()}):
        _source(name, config.benchmark[name], config.calibration)


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


def _source(name: str, source: Benchmark, chosen: Calibration) -> None:
    """What is chosen must be there in every benchmark that criteria are fitted on."""
    if chosen.length is not None and chosen.length not in source.lengths:
        raise ConfigError(
            f"option calibration.length: {chosen.length} is not among benchmark.{name}.lengths {source.lengths}, which"
            f" criteria are fitted on; choose one of them or add it there"
        )
    tasks = source.tasks if chosen.tasks is None else chosen.tasks
    if not tasks or len(set(tasks)) < len(tasks):
        raise ConfigError(f"option calibration.tasks: {tasks} must name at least one task and none twice")
    for task in tasks:
        if task not in source.tasks:
            raise ConfigError(
                f"option calibration.tasks: {task!r} is no task of benchmark {name}, which criteria are fitted on;"
                f" did you mean {nearest(task, source.tasks)!r}? ({', '.join(source.tasks)})"
            )
    if chosen.prompts is not None and chosen.prompts > source.samples.calibration:
        raise ConfigError(
            f"option calibration.prompts: {chosen.prompts} of each task, but benchmark.{name}.samples.calibration draws"
            f" {source.samples.calibration}; lower the one or raise the other"
        )
