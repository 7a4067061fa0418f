"""Check that the chosen calibration prompts exist. Never imports torch."""

from headscope.errors import ConfigError
from headscope.pipeline.config.names import unique
from headscope.pipeline.config.options import nearest
from headscope.pipeline.config.schema import Benchmark, Calibration, Config


def check_calibration(config: Config) -> None:
    """Refuse calibration prompts that no benchmark has.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    unique("calibration.targets", config.calibration.targets)
    for name in sorted({benchmark.calibrated_on or own for own, benchmark in config.benchmark.items()}):
        _source(name, config.benchmark[name], config.calibration)


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
