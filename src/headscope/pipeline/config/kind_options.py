"""Options of estimators and selectors: every kind declares its own, and the schema has those of all kinds."""

from collections.abc import Mapping
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any

from headscope.errors import ConfigError
from headscope.heads import registry
from headscope.heads.registry import Family, KindOption

TYPES = {"int": int, "float": float, "str": str, "bool": bool}


@cache
def declared(family: Family) -> dict[str, dict[str, KindOption]]:
    """Return the declarations of each option of a family, by its name and by the kind that declares it."""
    options: dict[str, dict[str, KindOption]] = {}
    for kind in registry.kinds(family):
        for name, option in registry.options_of(family, kind).items():
            options.setdefault(name, {})[kind] = option
    return options


def of_all_kinds(name: str, base: type, family: Family) -> type:
    """Add to a dataclass the options of all kinds; null ones are in no slice, so that another kind's renew nothing."""
    fields = []
    for option, declarations in declared(family).items():
        kind, metadata = merged(option, declarations)
        fields.append((option, kind | None, field(default=None, metadata=metadata)))
    return make_dataclass(name, fields, bases=(base,))


def merged(name: str, declarations: Mapping[str, KindOption]) -> tuple[type, dict[str, Any]]:
    """Return the type of an option and its metadata for all kinds together; the checks go by each kind's own.

    Raises:
        ConfigError: two kinds declare different types, or a type that there is not.
    """
    types = {option.type for option in declarations.values()}
    if len(types) > 1 or not types <= set(TYPES):
        kinds = ", ".join(f"{kind}: {option.type}" for kind, option in declarations.items())
        raise ConfigError(f"kinds declare option {name!r} as different types, or none of {list(TYPES)}: {kinds}")
    words = [f"{kind}: {option.help}{_default(option)}" for kind, option in declarations.items()]
    lows, highs = ([getattr(option, end) for option in declarations.values()] for end in ("low", "high"))
    choices = dict.fromkeys(choice for option in declarations.values() for choice in option.choices)
    return TYPES[types.pop()], {
        "help": "; ".join(words),
        "unit": next(iter(declarations.values())).unit,
        "low": None if None in lows else min(lows),
        "high": None if None in highs else max(highs),
        "choices": tuple(choices),
    }


def _default(option: KindOption) -> str:
    return "" if option.default is None else f" ({option.default} unless given)"
