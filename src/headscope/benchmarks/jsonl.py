"""Files of one JSON object a line, as benchmarks and predictions come, and checks of their fields."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headscope.errors import AssetError

Rows = dict[int, dict[str, Any]]
"""Objects by their line, from 1."""


def read_jsonl(path: Path) -> Rows:
    """Return the objects of a file by line; empty lines have none.

    Raises:
        AssetError: the file is missing, or a line is no JSON object; the message names file and line.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; give a file of one JSON object a line")
    with path.open("rb") as lines:
        return parse_jsonl(lines, str(path))


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
        AssetError: the content is no JSON.
    """
    try:
        return json.loads(content)
    except ValueError as error:
        raise AssetError(f"{where} is no JSON ({error}); repair it or fetch the file again") from error


def require(row: Mapping[str, Any], fields: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Refuse a row that lacks one of its fields, or has one of another type; `where` names the row.

    Raises:
        AssetError: naming the place and the field.
    """
    for name, types in fields.items():
        if name not in row:
            raise AssetError(f"{where} has no field {name!r}; it has {', '.join(sorted(row)) or 'none'}")
        if not isinstance(row[name], types):
            expected = types[0] if isinstance(types, tuple) else types
            raise AssetError(
                f"{where}: field {name!r} is a {type(row[name]).__name__}, not a {expected.__name__}; repair it or "
                "fetch the file again"
            )
