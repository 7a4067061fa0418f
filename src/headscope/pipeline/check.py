"""Checks of a composed configuration: ranges, and what options mean together. Never imports torch."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headscope.benchmarks import registry
from headscope.errors import ConfigError
from headscope.pipeline.calibration_checks import check_calibration
from headscope.pipeline.code import SOURCE, source_file
from headscope.pipeline.options import find, from_plain, leaves, nearest, refuse_unknown
from headscope.pipeline.schema import Benchmark, Config, Estimator, Model, Outliers

NAME = re.compile(r"[A-Za-z0-9_.]+(-[A-Za-z0-9_.]+)*")  # no two hyphens: they part a folder's name from its key
SOURCES = {
    "wheel": ("requirement", "file", "sha256"),
    "hub": ("id",),
    "folder": ("path",),
    "random": ("layers", "heads", "kv_heads", "head_dim", "hidden", "vocab", "positions", "seed"),
}
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
        _criteria,
        _estimators,
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
    _unique(f"{path}.tasks", benchmark.tasks)


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
    _unique(f"{path}.lengths", benchmark.lengths)
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


def _criteria(config: Config) -> None:
    _outliers("window.outliers", config.window.outliers)
    if not config.criterion:
        raise ConfigError("option criterion: name at least one, e.g. criterion=[dense,local,oracle]")
    for name, criterion in config.criterion.items():
        _module(f"criterion.{name}.kind", "heads.criteria", criterion.kind)
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
        _module(f"criterion.{name}.estimator.kind", "heads.estimators", criterion.estimator.kind)
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
    _outliers(f"{option}.scored", estimator.scored)


def _outliers(option: str, outliers: Outliers | None) -> None:
    if outliers is not None:
        _unique(f"{option}.rules", outliers.rules)
        for rule in outliers.rules:
            _module(f"{option}.rules", "heads.outliers", rule)


def _figures(config: Config) -> None:
    for name, figure in config.figure.items():
        known = _parameters(_module(f"figure.{name}", "figures", name))
        for param in figure.params:
            if param not in known:
                near = f"; did you mean {nearest(param, known)}?" if known else ""
                raise ConfigError(f"unknown option figure.{name}.params.{param}{near}")


def _targets(config: Config) -> None:
    _unique("calibration.targets", config.calibration.targets)


def _unique(option: str, values: list[Any]) -> None:
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"option {option}: {values} must name at least one value and none twice")


def _module(option: str, package: str, kind: str) -> Path:
    """Return the file of `headscope.<package>.<kind>`, which must exist."""
    file = source_file(f"headscope.{package}.{kind}")
    if file is None or file.name == "__init__.py":
        known = [path.stem for path in SOURCE.joinpath(*package.split(".")).glob("*.py") if path.stem != "__init__"]
        raise ConfigError(f"option {option}: no module headscope.{package}.{kind}; nearest: {nearest(kind, known)}")
    return file


def _parameters(file: Path) -> list[str]:
    """Names of what a figure's `draw` takes after tables and title, read without importing it."""

    def found() -> Iterator[str]:
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.FunctionDef) and node.name == "draw":
                yield from (argument.arg for argument in [*node.args.args, *node.args.kwonlyargs][2:])

    return list(found())
