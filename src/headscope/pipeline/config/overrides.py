"""Override strings in Hydra's grammar: `window.recent=64`, `criterion=[dense,qada]`, `seed=1,2,3`."""

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.options import nearest, refuse_unknown

CHOSEN_BY_NAME = ("benchmark", "criterion", "figure")  # groups of which an experiment has several


def expand(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Expand sweeps (`a=1,2`, `choice()`, `range()`) into points: all words, swept words.

    Raises:
        ConfigError: Hydra cannot read an override.
    """
    axes: list[list[tuple[str, bool]]] = []
    for override in _parse(overrides):
        if override.is_sweep_override():
            axes.append([(f"{override.get_key_element()}={value}", True) for value in override.sweep_string_iterator()])
        else:
            axes.append([(override.input_line, False)])
    points = list(itertools.product(*axes))
    return [([word for word, _ in point], [word for word, swept in point if swept]) for point in points]


def groups(root: Path) -> dict[str, list[str]]:
    """Return the configuration groups and the names of their choices."""
    folders = sorted(path for path in (root / "conf").iterdir() if path.is_dir())
    return {
        folder.name: sorted(str(file.relative_to(folder))[: -len(".yaml")] for file in folder.rglob("*.yaml"))
        for folder in folders
    }


def check_words(words: Sequence[str], root: Path) -> None:
    """Refuse options and choices that do not exist before Hydra does, with the nearest one that does.

    Raises:
        ConfigError: naming it.
    """
    known = groups(root)
    for override in _parse(words):
        group = override.key_or_group
        if group not in known:
            refuse_unknown(group, {name: known[name] for name in CHOSEN_BY_NAME})
        elif not override.is_delete():
            for name in _names(override.value()):
                if name not in known[group]:
                    near, every = nearest(name, known[group]), ", ".join(known[group])
                    raise ConfigError(f"unknown {group} {name!r}; did you mean {near!r}? (there are: {every})")


def split(text: str) -> list[str]:
    """Split a text into override strings, as a shell does.

    Raises:
        ConfigError: a quotation is open.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"cannot read the options {text!r}: {str(error).lower()}; close what is open") from error


def option_of(word: str) -> str:
    """Return the dotted path that an override sets."""
    return word.split("=", 1)[0].lstrip("+~")


def readable(word: str) -> str:
    """Turn an override into a part of a folder's name."""
    return "".join(char if char.isalnum() or char in "_.=-" else "_" for char in word).replace("=_", "=").rstrip("_")


def _parse(overrides: Sequence[str]) -> list[Any]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parsed = []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"cannot read the option {text!r}: {reason}; write name=value, see --help") from error
    return parsed


def _names(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        return ()
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
