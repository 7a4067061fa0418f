"""Lists of names in a configuration: none twice, and each of a module that exists. Never imports torch."""

from pathlib import Path
from typing import Any

from headscope import source
from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.pipeline.config.options import nearest


def unique(option: str, values: list[Any]) -> None:
    """Refuse a list that is empty or names something twice."""
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"option {option}: {values} must name at least one value and none twice")


def known_kind(option: str, family: registry.Family, kind: str) -> None:
    """Refuse a kind of criterion, estimator, selector or outlier rule that no module makes."""
    try:
        registry.module(family, kind)
    except ConfigError as error:
        raise ConfigError(f"option {option}: {error}") from error


def figure_file(name: str) -> Path:
    """Return the file of `headscope.figures.<name>`, which must exist."""
    file = source.source_file(f"headscope.figures.{name}") if name.isidentifier() else None
    if file is None or file.name == "__init__.py":
        known = [path.stem for path in (source.SOURCE / "figures").glob("*.py") if path.stem != "__init__"]
        raise ConfigError(f"option figure.{name}: no module headscope.figures.{name}; nearest: {nearest(name, known)}")
    return file
