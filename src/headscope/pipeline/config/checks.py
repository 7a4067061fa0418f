"""Check a composed configuration: every value's range, and what options mean together. Never imports torch."""

import ast
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.benchmark_checks import check_benchmarks
from headscope.pipeline.config.calibration_checks import check_calibration
from headscope.pipeline.config.criterion_checks import check_criteria
from headscope.pipeline.config.names import figure_file
from headscope.pipeline.config.options import find, from_plain, leaves, nearest, refuse_unknown, shown
from headscope.pipeline.config.path_checks import check_paths
from headscope.pipeline.config.schema import Config, Model

SOURCES = {  # what each type must have, and what it may have
    "gguf": (("sha256",), ("packages", "id", "file", "revision")),
    "hub": (("id",), ("revision",)),
    "folder": (("path",), ()),
    "random": (("layers", "heads", "kv_heads", "head_dim", "hidden", "vocab", "positions", "seed"), ()),
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
    for test in (check_paths, _scope, _source, _model, check_benchmarks, check_criteria, _figures, check_calibration):
        test(typed)


def _scope(config: Config) -> None:
    if config.chunk is not None and config.scope != "prompt":
        raise ConfigError(
            f"option chunk: {config.chunk} has no meaning for scope {config.scope}, which prefills the context densely;"
            " leave it out or choose scope=prompt"
        )


def _source(config: Config) -> None:
    source = config.model.source
    (wanted, optional), values = SOURCES[source.type], vars(source)
    missing = [name for name in wanted if values[name] is None]
    extra = [name for name, value in values.items() if value is not None and name not in (*wanted, *optional, "type")]
    if source.type == "gguf":
        missing += ["packages"] if not source.packages and source.id is None else []
        missing += ["id"] if source.id is None and source.file is not None else []
        missing += ["file"] if source.file is None and source.id is not None else []
    if missing:
        raise ConfigError(f"option model.source.{missing[0]} must be given for type {source.type}")
    if extra:
        raise ConfigError(f"option model.source.{extra[0]} has no meaning for type {source.type}; leave it out")
    if source.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", source.sha256):
        raise ConfigError(
            f"option model.source.sha256: {source.sha256!r} is not 64 of 0-9 and a-f, as sha256sum prints"
        )
    for package in source.packages or []:
        if not all(package.partition("/")) or package.startswith("-"):
            raise ConfigError(
                f"option model.source.packages: {package!r} must be a pip requirement, a slash and the path inside the "
                "package (my-model==1.0/my_model/weights.gguf)"
            )


def _model(config: Config) -> None:
    model: Model = config.model
    if model.expect.heads % model.expect.kv_heads:
        raise ConfigError(
            f"option model.expect.heads: {model.expect.heads} is no multiple of kv_heads {model.expect.kv_heads}"
        )
    if model.device == "cpu" and model.device_map is not None:
        raise ConfigError(f"option model.device_map: {model.device_map} spreads over GPUs, but model.device is cpu")


def _figures(config: Config) -> None:
    for name, figure in config.figure.items():
        known = _parameters(figure_file(name))
        for param, value in figure.params.items():
            if param not in known:
                near = f"; did you mean {nearest(str(param), known)}?" if known else ""
                raise ConfigError(f"unknown option figure.{name}.params.{param}{near}")
            if not _is(known[param], value):
                raise ConfigError(
                    f"option figure.{name}.params.{param}: {shown(value)} is no {known[param] or 'value'}"
                )


def _parameters(file: Path) -> dict[str, str]:
    """Return what a figure's `draw` takes after tables and title: names with types, read without importing it."""
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == "draw":
            arguments = [*node.args.args, *node.args.kwonlyargs][2:]
            return {each.arg: ast.unparse(each.annotation) if each.annotation else "" for each in arguments}
    return {}


def _is(annotation: str, value: Any) -> bool:
    """Return True if a value has a type; JSON must carry it, and a type of another name is not checked."""
    if annotation.startswith("Sequence["):
        return isinstance(value, list) and all(_is(annotation.removeprefix("Sequence[")[:-1], item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    types: dict[str, type | tuple[type, ...]] = {"float": (int, float), "int": int, "str": str}
    return isinstance(value, types.get(annotation, object)) and not (annotation in types and isinstance(value, bool))
