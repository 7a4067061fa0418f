"""Templates with named placeholders, filled in one pass: braces and dollars of a document stay as they are."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from headscope.errors import AssetError

DOLLAR_NAME = re.compile(r"\$([A-Z_]+)\$")


@dataclass(frozen=True)
class Template:
    """Literal texts with a value after each.

    Attributes:
        parts: pairs of a literal and the name of the value that follows it; an empty name: none does.
    """

    parts: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        """The names of the values, in order."""
        return [name for _, name in self.parts if name]

    def fill(self, values: Mapping[str, str], question: str = "") -> tuple[str, int]:
        """Return the filled text, and the offset of its question in characters.

        Args:
            values: by name.
            question: the value that the question starts with; empty: it is the literal after the last value.
        """
        pieces: list[str] = []
        at = after = 0
        starts: dict[str, int] = {}
        for literal, name in self.parts:
            value = values[name] if name else ""
            pieces += [literal, value]
            starts.setdefault(name, at + len(literal))
            at += len(literal) + len(value)
            after = at if name else after
        return "".join(pieces), starts[question] if question else after


def format_style(text: str, known: set[str], where: str) -> Template:
    """Read a template with placeholders of Python's `str.format`, plain ones only.

    Raises:
        AssetError: it is no text, a brace has no partner, or a placeholder is none of `known`; `where` names it.
    """
    try:
        parsed = list(Formatter().parse(text))
    except (ValueError, TypeError) as error:
        raise AssetError(f"{where} is no template ({error}); fetch it again") from error
    for _, name, form, conversion in parsed:
        if name is not None and (name not in known or form or conversion):
            raise AssetError(f"{where} has a placeholder {{{name}}}; known: {', '.join(sorted(known))}; fetch it again")
    return Template(tuple((literal, name or "") for literal, name, _, _ in parsed))


def dollar_style(text: str, known: set[str], where: str) -> Template:
    """Read a template with placeholders like $NAME$.

    Raises:
        AssetError: a placeholder is none of `known`, or one of them is missing; `where` names the template.
    """
    split = [*DOLLAR_NAME.split(text), ""]
    template = Template(tuple(zip(split[::2], split[1::2], strict=True)))
    if set(template.names) != known:
        raise AssetError(
            f"{where} has placeholders {', '.join(template.names) or 'none'}, not {', '.join(sorted(known))}; "
            "fetch it again"
        )
    return template
