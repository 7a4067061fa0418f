"""Lists of names in a configuration: none twice, and each of a module that exists. Never imports torch."""

from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.options import nearest
from headscope.pipeline.plan.code import SOURCE, source_file


def unique(option: str, values: list[Any]) -> None:
    """Refuse a list that is empty or names something twice."""
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"option {option}: {values} must name at least one value and none twice")


def module_file(option: str, package: str, kind: str) -> Path:
    """Return the file of `headscope.<package>.<kind>`, which must exist."""
    file = source_file(f"headscope.{package}.{kind}")
    if file is None or file.name == "__init__.py":
        known = [path.stem for path in SOURCE.joinpath(*package.split(".")).glob("*.py") if path.stem != "__init__"]
        raise ConfigError(f"option {option}: no module headscope.{package}.{kind}; nearest: {nearest(kind, known)}")
    return file
