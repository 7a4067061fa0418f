"""Override strings in Hydra's grammar: `window.recent=64`, `criterion=[dense,qada]`, `seed=1,2,3`."""

import itertools
import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.pipeline.config.options import find, shown

LEFT_OUT = ("glob", "interval", "shuffle", "tag")  # Hydra's functions that name no points, or others each time
MOST_POINTS = 1000
RESOLVER = re.compile(r"\$\{[^}]*(:|\$\{)")
"""`${oc.env:HOME}`, `${now:%Y}`: a plan is read again by every job, and must be the same there."""


def split(text: Any) -> list[str]:
    """Split a text into overrides as a shell does.

    Raises:
        ConfigError: a quotation mark is open, or Snakemake's command line made something else of the text.
    """
    if not isinstance(text, str):
        raise ConfigError(
            f"cannot read the options {shown(text)}: --config hydra=... is YAML to Snakemake, which takes ': ' apart;"
            " leave out the space, or use headscope run"
        )
    try:
        return [word for word in shlex.split(text) if word]
    except ValueError as error:
        raise ConfigError(
            f"cannot read the options {shown(text)}: {str(error).lower()}; Snakemake strips quotation marks from both"
            " ends and takes ' #' for a comment: put a word without them last, or use headscope run"
        ) from error


def expand(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Expand sweeps (`a=1,2`, `choice()`, `range()`) into points: all words, swept words.

    Raises:
        ConfigError: Hydra cannot read an override, or a sweep has no point or too many.
    """
    axes: list[list[tuple[str, bool]]] = []
    number = 1
    for override in map(parse, overrides):
        if override.is_sweep_override():
            values = itertools.islice(override.sweep_string_iterator(), MOST_POINTS + 1)
            axes.append([(f"{override.get_key_element()}={value}", True) for value in values])
        else:
            axes.append([(override.input_line, False)])
        number *= len(axes[-1])
        if not 0 < number <= MOST_POINTS:
            raise ConfigError(
                f"option {shown(override.input_line)}: a sweep of no points or more than {MOST_POINTS};"
                " choose others, or several runs"
            )
    points = list(itertools.product(*axes))
    return [([word for word, _ in point], [word for word, swept in point if swept]) for point in points]


def groups(root: Path) -> dict[str, list[str]]:
    """Return the configuration groups and the names of their choices."""
    folders = sorted(path for path in (root / "conf").iterdir() if path.is_dir())
    return {
        folder.name: sorted(str(file.relative_to(folder))[: -len(".yaml")] for file in folder.rglob("*.yaml"))
        for folder in folders
    }


def option_of(word: str) -> str:
    """Return the dotted path that an override sets."""
    return word.split("=", 1)[0].lstrip("+~")


def readable(word: str) -> str:
    """Turn an override into a part of a folder's name."""
    return "".join(char if char.isalnum() or char in "_.=-" else "_" for char in word).replace("=_", "=").rstrip("_")


def parse(text: str) -> Any:
    """Read one override in Hydra's grammar.

    Raises:
        ConfigError: it cannot be read, has no printable form, or reads the environment or the clock.
    """
    from hydra.errors import HydraException

    if not text.isprintable():
        raise ConfigError(f"cannot read the option {shown(text)}: it has a character that cannot be printed")
    refuse_resolver(f"option {shown(text)}", text)
    try:
        [override] = _parser().parse_overrides([text])
        _check_kind(override)
    except (HydraException, ValueError, ArithmeticError, RecursionError) as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("Error parsing override")]
        reason = shown(lines[0] if lines else type(error).__name__)[1:-1]
        if reason.startswith("LexerNoViableAlt"):
            reason = "it has a character that needs quotation marks"
        raise ConfigError(f"cannot read the option {shown(text)}: {reason}; write name=value, see --help") from error
    return override


@cache
def _parser() -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions

    functions = create_functions()
    for name in LEFT_OUT:
        del functions.functions[name], functions.definitions[name]
    return OverridesParser(functions)


def _check_kind(override: Any) -> None:
    """Refuse what Hydra would take for another value: 12e7, 1_000 or true for a text, 2 for a truth value."""
    swept = override.is_sweep_override()
    values = [*itertools.islice(override.sweep_iterator(), MOST_POINTS)] if swept else [override.value()]
    option, path = find(override.key_or_group), override.key_or_group
    written = re.split(r"[=,\[\]() ]", override.input_line)
    for value in itertools.chain.from_iterable(each if isinstance(each, list) else [each] for each in values):
        if option is None or not isinstance(value, int | float):
            continue
        if option.kind is str and str(value) not in written:
            raise ConfigError(
                f"option {path}: {shown(override.input_line)} would be the text '{value}'; quote the value:"
                f" \"{path}='...'\""
            )
        if option.kind is bool and value not in (0, 1):
            raise ConfigError(f"option {path}: {shown(value)} is not {option.accepts}")


def refuse_resolver(place: str, text: str) -> None:
    """Refuse an interpolation that reads the environment or the clock, or calls anything else.

    Raises:
        ConfigError: naming `place` and the interpolation.
    """
    if resolver := RESOLVER.search(text):
        interpolation = text[resolver.start() :].partition("}")[0] + "}"
        raise ConfigError(
            f"{place}: what {shown(interpolation)} reads may differ between a plan and its jobs; write the value"
            ' itself, on a command line by the shell: results="$SCRATCH/results"'
        )
