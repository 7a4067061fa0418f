"""Check overrides against the schema and conf/ before Hydra composes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.options import find, nearest, options, refuse_unknown, shown
from headscope.pipeline.config.overrides import groups, parse

CHOSEN_BY_NAME = ("benchmark", "criterion", "figure")  # groups of which an experiment has several


def check_words(words: Sequence[str], root: Path) -> None:
    """Refuse options and choices that do not exist before Hydra does, with the nearest one that does.

    Raises:
        ConfigError: naming it.
    """
    known = groups(root)
    for override in map(parse, words):
        path, value = override.key_or_group, override.value()
        if path not in known:
            refuse_unknown(path, {name: known[name] for name in CHOSEN_BY_NAME})
        if override.is_delete():
            _check_deleted(path, override.input_line)
        elif path in known and not isinstance(value, Mapping):
            _check_choices(path, value, known[path])
        elif find(path) is None and not (value and isinstance(value, Mapping)):
            _check_group(path, value)


def _check_deleted(path: str, text: str) -> None:
    if "=" in text or not _is_named(path):
        raise ConfigError(
            f"option {shown(text)}: ~ leaves out one of several by its name alone (~criterion.qada); give other options"
            " another value"
        )


def _check_choices(group: str, value: Any, known: Sequence[str]) -> None:
    several = isinstance(value, list)
    names = [str(name) for name in value] if several else [str(value)]
    for name in names:
        if name not in known:
            near, every = nearest(name, known), ", ".join(known)
            raise ConfigError(f"unknown {group} {shown(name)}; did you mean {near!r}? (there are: {every})")
    if several and group not in CHOSEN_BY_NAME:
        raise ConfigError(f"option {group}: choose one, not the list {names}: {group}={(names or known)[0]}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"option {group}: {names} must name at least one of {', '.join(known)} and none twice")


def _check_group(path: str, value: Any) -> None:
    """Refuse what is no mapping for a group of options; null leaves out an optional one."""
    if value is None and not _is_named(path):
        return
    remedy = f"leave it out with ~{path}" if value is None else f"set its options one by one: {path}.<option>=..."
    raise ConfigError(f"option {path}: {shown(value)} is no mapping of options; {remedy}")


def _is_named(path: str) -> bool:
    """Return True if a path ends in a name that an experiment chooses: `criterion.qada`."""
    head = path.rpartition(".")[0]
    return any(option.path.startswith(f"{head}.*.") for option in options())
