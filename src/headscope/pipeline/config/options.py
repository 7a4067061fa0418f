"""The schema as a list of options: their names, what they accept, and the nearest name to a wrong one."""

import dataclasses
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from headscope.errors import ConfigError
from headscope.pipeline.config.schema import MISSING, Config

T = TypeVar("T")
LONGEST = 1000  # characters of a text
LARGEST = 2**53  # of whole numbers: JSON and tensors hold it
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}


@dataclass(frozen=True)
class Option:
    """One option of the schema.

    Attributes:
        path: dotted, `*` for a name that the user chooses.
        kind: type of the value, or of a list's elements.
        many: the value is a list.
        optional: null is allowed.
        default: the schema's own; `???` where a YAML must say it.
        metadata: help, unit, low, high, choices.
    """

    path: str
    kind: type
    many: bool
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def accepts(self) -> str:
        """Say in words what the option takes."""
        low, high, choices, unit = (self.metadata[name] for name in ("low", "high", "choices", "unit"))
        words = "one of " + ", ".join(choices) if choices else WORDS[self.kind]
        if self.many:
            words = f"a list, each {words}"
        if low is not None:
            words += f" from {low} to {high}" if high is not None else f", at least {low}"
        return words + (f" ({unit})" if unit else "") + (" or null" if self.optional else "")

    def check(self, path: str, value: Any) -> None:
        """Refuse a value outside the range or the choices.

        Raises:
            ConfigError: naming the option, the value and the nearest valid one.
        """
        for item in (value or []) if self.many else [value]:
            if isinstance(item, str) and (not item.isprintable() or len(item) > LONGEST):
                raise ConfigError(f"option {path}: {shown(item)} is no text of at most {LONGEST} printable characters")
            if isinstance(item, float) and not math.isfinite(item):
                raise ConfigError(f"option {path}: {item} is not {self.accepts}")
            near = self._nearest(item)
            if item is not None and near != item:
                raise ConfigError(f"option {path}: {shown(item)} is not {self.accepts}; the nearest is {near}")

    def _nearest(self, value: Any) -> Any:
        low, high, choices = (self.metadata[name] for name in ("low", "high", "choices"))
        if choices:
            return value if value in choices else nearest(str(value), choices)
        if self.kind in (int, float) and value is not None:
            value = value if low is None else max(value, low)
            high = LARGEST if high is None and self.kind is int else high
            return value if high is None else min(value, high)
        return value


@cache
def options() -> tuple[Option, ...]:
    """Return every option of the schema, leaves only."""
    return tuple(_walk(Config, ""))


def _walk(cls: type, prefix: str) -> Iterator[Option]:
    hints = get_type_hints(cls)
    for item in dataclasses.fields(cls):
        path, (hint, optional) = prefix + item.name, _unwrap(hints[item.name])
        arguments = get_args(hint)
        if get_origin(hint) is dict and _is_group(arguments[1]):
            yield from _walk(arguments[1], f"{path}.*.")
        elif _is_group(hint):
            yield from _walk(hint, f"{path}.")
        else:
            many = get_origin(hint) is list
            kind = arguments[0] if many else get_origin(hint) or hint
            default = item.default if item.default is not dataclasses.MISSING else MISSING
            yield Option(path, kind, many, optional, default, item.metadata)


def _is_group(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _unwrap(hint: Any) -> tuple[Any, bool]:
    """Split `X | None` into X and True where null is allowed."""
    if isinstance(hint, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None)), True
    return hint, False


@cache
def find(path: str) -> Option | None:
    """Return the option at a dotted path, or None; below a free mapping every path is the mapping's."""
    return next((option for option in options() if _matches(option, path)), None)


def is_known(path: str) -> bool:
    """Return True if a dotted path is an option or the head of one."""
    parts = path.split(".")
    return find(path) is not None or any(_fits(option.path.split(".")[: len(parts)], parts) for option in options())


def _matches(option: Option, path: str) -> bool:
    pattern, parts = option.path.split("."), path.split(".")
    if option.kind is dict and len(parts) > len(pattern):
        parts = parts[: len(pattern)]
    return _fits(pattern, parts)


def _fits(pattern: list[str], parts: list[str]) -> bool:
    return len(pattern) == len(parts) and all(want in ("*", part) for want, part in zip(pattern, parts, strict=True))


def refuse_unknown(path: str, names: Mapping[str, Iterable[str]]) -> None:
    """Refuse a dotted path that the schema does not have.

    Args:
        path: the option.
        names: for each free name's mapping (`criterion`, `figure`), the names there are.

    Raises:
        ConfigError: naming the nearest option.
    """
    head, _, rest = path.partition(".")
    free = names.get(head)
    if free is not None and rest and rest.split(".")[0] not in free:
        name = rest.split(".")[0]
        within = nearest(name, free)
        longer = f"{head}.{within}.{rest}"  # only the name was left out
        meant = longer if is_known(longer) else within
        raise ConfigError(f"unknown option {path}: there is no {head} {name!r}; did you mean {meant!r}?")
    if not is_known(path):
        known = [option.path.replace("*", name) for option in options() for name in names.get(_head(option), [""])]
        raise ConfigError(f"unknown option {path}; did you mean {nearest(path, known)}?")


def _head(option: Option) -> str:
    return option.path.split(".")[0] if "*" in option.path else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most like `word`."""
    return get_close_matches(word, sorted(known), n=1, cutoff=0)[0]


def shown(value: Any) -> str:
    """Return a value as one short line of printable characters."""
    text = ascii(value) if not str(value).isprintable() else repr(value)
    return text if len(text) < 100 else f"{text[:70]}...{text[-20:]}"


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted paths and values of nested mappings. Lists and free mappings are values."""
    for name, value in data.items():
        path = f"{prefix}{name}"
        option = find(path)
        if isinstance(value, Mapping) and (option is None or option.kind is not dict):
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


def from_plain(cls: type[T], data: Mapping[str, Any]) -> T:
    """Build a schema class from nested plain data that was composed and checked."""
    hints = get_type_hints(cls)
    return cls(**{name: _plain_value(_unwrap(hints[name])[0], value) for name, value in data.items()})


def _plain_value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if _is_group(hint):
        return from_plain(hint, value)
    if get_origin(hint) is dict and _is_group(get_args(hint)[1]):
        return {name: from_plain(get_args(hint)[1], item) for name, item in value.items()}
    return value
