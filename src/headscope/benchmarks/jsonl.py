"""Files of one JSON object a line, as benchmarks and predictions come."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from headscope.errors import AssetError


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file; empty lines are left out.

    Raises:
        AssetError: the file is missing, or a line is no JSON object; the message names file and line.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; give a file of one JSON object a line")
    with path.open("rb") as lines:
        return parse_jsonl(lines, str(path))


def parse_jsonl(lines: Iterable[bytes], name: str) -> list[dict[str, Any]]:
    """Return the objects of `lines`; `name` is the file's, for messages.

    Raises:
        AssetError: a line is no JSON object.
    """
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise AssetError(f"{name}, line {number} is no JSON ({error}); repair the line or fetch again") from error
        if not isinstance(row, dict):
            raise AssetError(f"{name}, line {number} is a {type(row).__name__}, not a JSON object; repair the line")
        found.append(row)
    return found


def require(row: dict[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse a row that lacks one of its fields.

    Raises:
        AssetError: naming the place and the field.
    """
    for name in names:
        if name not in row:
            raise AssetError(f"{where} has no field {name!r}; it has {', '.join(sorted(row)) or 'none'}")
