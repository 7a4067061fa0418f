"""Checks of a composed configuration: ranges, and what options mean together. Never imports torch."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headscope.benchmarks import registry
from headscope.errors import ConfigError
from headscope.pipeline.config.calibration_checks import check_calibration
from headscope.pipeline.config.criterion_checks import check_criteria
from headscope.pipeline.config.names import figure_file, unique
from headscope.pipeline.config.options import find, from_plain, leaves, nearest, refuse_unknown
from headscope.pipeline.config.schema import Benchmark, Config, Model

NAME = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*")  # no two hyphens: they part a folder's name from its key
SOURCES = {
    "wheel": ("requirement", "file", "sha256"),
    "hub": ("id",),
    "folder": ("path",),
    "random": ("layers", "heads", "kv_heads", "head_dim", "hidden", "vocab", "positions", "seed"),
}


def check(config: Mapping[str, Any]) -> None:
    """Refuse a composed configuration that cannot run.

    Raises:
        ConfigError: naming the option, its value and the remedy.
    """
    for path, value in leaves(config):
        option = find(path)
        if option is None:
            refuse_unknown(path, {})
        else:
            option.check(path, value)
    typed = from_plain(Config, config)
    for test in (
        _names,
        _scope,
        _model,
        _benchmarks,
        _files,
        check_criteria,
        _figures,
        _targets,
        check_calibration,
    ):
        test(typed)


def _names(config: Config) -> None:
    given = {"name": config.name.split("/"), "model.name": [config.model.name]}
    given |= {"criterion": list(config.criterion), "figure": list(config.figure), "benchmark": list(config.benchmark)}
    given["assets.files"] = list(config.assets.files)
    given["estimator.name"] = [c.estimator.name for c in config.criterion.values() if c.estimator is not None]
    for option, words in given.items():
        for word in words:
            if not NAME.fullmatch(word):
                raise ConfigError(f"option {option}: {word!r} must be letters, digits, '_', '.' and single '-'")


def _scope(config: Config) -> None:
    if config.chunk is not None and config.scope != "prompt":
        raise ConfigError(
            f"option chunk: {config.chunk} has no meaning for scope {config.scope}, which prefills the context densely;"
            " leave it out or choose scope=prompt"
        )


def _model(config: Config) -> None:
    model: Model = config.model
    wanted, given = SOURCES[model.source.type], vars(model.source)
    missing = [name for name in wanted if given[name] is None]
    extra = [name for name, value in given.items() if value is not None and name not in (*wanted, "type", "revision")]
    if missing:
        raise ConfigError(f"option model.source.{missing[0]} must be given for type {model.source.type}")
    if extra:
        raise ConfigError(f"option model.source.{extra[0]} has no meaning for type {model.source.type}; leave it out")
    if model.expect.heads % model.expect.kv_heads:
        raise ConfigError(
            f"option model.expect.heads: {model.expect.heads} is no multiple of kv_heads {model.expect.kv_heads}"
        )
    if model.device == "cpu" and model.device_map is not None:
        raise ConfigError(f"option model.device_map: {model.device_map} spreads over GPUs, but model.device is cpu")


def _benchmarks(config: Config) -> None:
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


def _tasks(path: str, benchmark: Benchmark) -> None:
    known = registry.names(benchmark.kind)
    for task in benchmark.tasks:
        if task not in known:
            every = ", ".join(known)
            raise ConfigError(
                f"option {path}.tasks: unknown task {task!r}; did you mean {nearest(task, known)!r}? ({every})"
            )
    unique(f"{path}.tasks", benchmark.tasks)


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
    """Where criteria are fitted there must be prompts to fit them on."""
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


def _figures(config: Config) -> None:
    for name, figure in config.figure.items():
        known = _parameters(figure_file(name))
        for param in figure.params:
            if param not in known:
                near = f"; did you mean {nearest(param, known)}?" if known else ""
                raise ConfigError(f"unknown option figure.{name}.params.{param}{near}")


def _targets(config: Config) -> None:
    unique("calibration.targets", config.calibration.targets)


def _parameters(file: Path) -> list[str]:
    """Names of what a figure's `draw` takes after tables and title, read without importing it."""

    def found() -> Iterator[str]:
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "draw":
                yield from (argument.arg for argument in [*node.args.args, *node.args.kwonlyargs][2:])

    return list(found())
