"""Check benchmarks: tasks and lengths exist, files are known, there are prompts to fit on. Never imports torch."""

from headscope.benchmarks import registry
from headscope.errors import ConfigError
from headscope.pipeline.config.names import unique
from headscope.pipeline.config.options import nearest
from headscope.pipeline.config.schema import Benchmark, Config


def check_benchmarks(config: Config) -> None:
    """Refuse benchmarks whose tasks, lengths, files or calibration prompts there are not.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    if not config.benchmark:
        raise ConfigError("option benchmark: name at least one, e.g. benchmark=[ruler]")
    seen: dict[str, str] = {}
    for name, benchmark in config.benchmark.items():
        path = f"benchmark.{name}"
        _tasks(path, benchmark)
        _lengths(path, benchmark, config)
        _calibrated_on(path, benchmark, config)
        if benchmark.source is not None and benchmark.kind != "ruler":
            raise ConfigError(f"option {path}.source: only ruler takes official sample files, not {benchmark.kind}")
        for task in benchmark.tasks:
            if seen.setdefault(task, name) != name:
                raise ConfigError(f"option {path}.tasks: {task} is already a task of benchmark {seen[task]}")
    _files(config)


def _tasks(path: str, benchmark: Benchmark) -> None:
    known = registry.names(benchmark.kind)
    for task in benchmark.tasks:
        if task not in known:
            every = ", ".join(known)
            raise ConfigError(
                f"option {path}.tasks: unknown task {task!r}; did you mean {nearest(task, known)!r}? ({every})"
            )
    unique(f"{path}.tasks", benchmark.tasks)


def _lengths(path: str, benchmark: Benchmark, config: Config) -> None:
    window, model = config.window, config.model
    unique(f"{path}.lengths", benchmark.lengths)
    for length in benchmark.lengths:
        if length > model.positions:
            raise ConfigError(
                f"option {path}.lengths: {length} tokens are beyond model.positions {model.positions} of"
                f" {model.name}; choose a shorter length or a model (or RoPE override) with more positions"
            )
        if window.sink + window.recent >= length:
            raise ConfigError(
                f"option window.recent: window.sink {window.sink} + window.recent {window.recent} covers all"
                f" {length} tokens of {path}.lengths: no key is left outside the window"
            )


def _calibrated_on(path: str, benchmark: Benchmark, config: Config) -> None:
    """Refuse a benchmark without prompts to fit its criteria on."""
    needed = {c.calibrated_on for c in config.criterion.values()} & {"calibration", "other_tasks"}
    source = benchmark.calibrated_on
    if source is not None and source not in config.benchmark:
        raise ConfigError(
            f"option {path}.calibrated_on: this experiment has no benchmark {source!r}; add it"
            f" (benchmark=[{source},...]) or calibrate on its own rows ({path}.calibrated_on=null"
            f" {path}.samples.calibration=20)"
        )
    if needed and not (benchmark if source is None else config.benchmark[source]).samples.calibration:
        where = path if source is None else f"benchmark.{source}"
        raise ConfigError(f"option {where}.samples.calibration: 0 prompts, but criteria of {path} are fitted on them")


def _files(config: Config) -> None:
    for name, file in config.assets.files.items():
        for option in {"url": ("url",), "hub": ("repository", "file")}.get(file.source, ()):
            if getattr(file, option) is None:
                raise ConfigError(f"option assets.files.{name}.{option} must be given for source {file.source}")
    for name, benchmark in config.benchmark.items():
        for task in benchmark.tasks:
            for wanted in registry.needs(benchmark.kind, task, max(benchmark.lengths)):
                if wanted not in config.assets.files:
                    raise ConfigError(f"option assets.files.{wanted} must be given: task {task} of {name} needs it")
