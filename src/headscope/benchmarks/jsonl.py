"""Files of one JSON object a line, as benchmarks and predictions come, and checks of their fields."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headscope.errors import AssetError

Rows = dict[int, dict[str, Any]]
"""Objects by their line, from 1."""

EXACT = 2.0**53  # beyond it a float does not hold every digit of the number that it was read from


def read_jsonl(path: Path) -> Rows:
    """Return the objects of a file by line; empty lines have none.

    Raises:
        AssetError: the file is missing or cannot be read, or a line is no JSON object; the message names file and line.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise AssetError(f"{path} does not exist or is no file; give a file of one JSON object a line")
    try:
        with path.open("rb") as lines:
            return parse_jsonl(lines, str(path))
    except OSError as error:
        raise AssetError(f"{path} cannot be read ({error.strerror}); give a file that can") from error


def parse_jsonl(lines: Iterable[bytes], name: str) -> Rows:
    """Return the objects of `lines`; `name` is the file's, for messages.

    Raises:
        AssetError: a line is no JSON object.
    """
    rows = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{name}, line {number}")
        if not isinstance(row, dict):
            raise AssetError(f"{name}, line {number} is a {type(row).__name__}, not a JSON object; repair the line")
        rows[number] = row
    return rows


def parse_json(content: bytes, where: str) -> Any:
    """Return the value of a JSON text; `where` names it in messages.

    Raises:
        AssetError: the content is no JSON, or an object has two fields of one name.
    """
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # the latter: brackets nested thousands deep
        raise AssetError(f"{where} is no JSON ({error}); repair it or fetch the file again") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of two fields of one name Python's own reader takes the last one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in fields if names.count(name) > 1)
        raise ValueError(f"field {double!r:.40} is there twice")
    return fields


def require(row: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Refuse a row that lacks one of its fields, or has one of another type or no text at all; `where` names the row.

    Raises:
        AssetError: naming the place and the field.
    """
    for name, types in fields.items():
        if name not in row:
            raise AssetError(f"{where} has no field {name!r}; it has {named(sorted(row))}")
        if not isinstance(row[name], types):
            expected = types[0] if isinstance(types, tuple) else types
            raise AssetError(
                f"{where}: field {name!r} is a {type(row[name]).__name__}, not a {expected.__name__}; repair it or "
                "fetch the file again"
            )
        refuse_half_characters(row[name], f"{where}: field {name!r}")


def refuse_half_characters(value: Any, where: str) -> None:
    """Refuse texts with half of a surrogate pair, which JSON can spell but no tokenizer or table takes.

    Raises:
        AssetError: `where` names the value.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise AssetError(f"{where} holds half a character ({half!r}); repair it or fetch the file again") from error


def named(fields: Iterable[str]) -> str:
    """List the names of fields in one line that is not too long."""
    return f"{', '.join(' '.join(name.split()) for name in fields):.200}" or "none"


def text_of(value: Any, where: str) -> str:
    """Return a text; a number counts as its digits, a list of one text as that text.

    Args:
        value: as read from JSON.
        where: file, line and field, for the message.

    Raises:
        AssetError: the value is null, true, NaN, an object or several texts, or a number whose digits are not certain.
    """
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
        value = int(value)  # pandas makes floats of a column of integers with a gap
    if isinstance(value, str):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (isinstance(value, int) or abs(value) < EXACT):
        return str(value)
    raise AssetError(f"{where} is {_described(value)}, not a text; write one text")


def texts_of(value: Any, where: str) -> list[str]:
    """Return a list of texts; one text counts as a list of it. Arguments as in `text_of`.

    Raises:
        AssetError: the list is empty or was written as a text, or an item is no text.
    """
    if isinstance(value, str) and value.strip()[:1] == "[" and value.strip()[-1:] == "]":
        raise AssetError(f"{where} is a text that looks like a list, {value!r:.40}; write the list itself")
    if not isinstance(value, list):
        return [text_of(value, where)]
    if not value:
        raise AssetError(f"{where} is empty; write at least one text")
    return [text_of(item, f"{where}, item {number}") for number, item in enumerate(value, start=1)]


def whole_of(value: Any, where: str) -> int:
    """Return a whole number; its digits as a text count too. Arguments as in `text_of`.

    Raises:
        AssetError: the value is anything else, or negative.
    """
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1 >= 0:
        return int(value)
    raise AssetError(f"{where} is {_described(value)}, not a whole number; write its digits")


def _described(value: Any) -> str:
    """Name a value of the wrong type as JSON calls it; never prints a container, which may be deep."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    return f"{value!r:.40}" if isinstance(value, str) else json.dumps(value)
