"""The rows of a file of questions, which is published as JSON lines or as parquet."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from headscope.benchmarks.jsonl import parse_jsonl, require
from headscope.errors import AssetError

PARQUET = b"PAR1"


def records(contents: bytes, name: str, fields: Mapping[str, type]) -> dict[int, dict[str, Any]]:
    """Return the rows of a file by their line, or row of the table, from 1.

    Args:
        contents: the file, parquet if it starts as parquet does, else one JSON object a line.
        name: the file's, for messages.
        fields: the type of each field that a row must have.

    Raises:
        AssetError: the file is damaged, or a field is missing or has another type; the message names file and line.
    """
    found = _table(contents, name) if contents.startswith(PARQUET) else _lines(contents, name)
    for number, row in found.items():
        require(row, fields, place(name, number))
        for field, expected in fields.items():
            if not isinstance(row[field], expected):
                raise AssetError(
                    f"{place(name, number)}: {field!r} is a {type(row[field]).__name__}, not a {expected.__name__}; "
                    "repair it or fetch the file again"
                )
    return found


def place(name: str, number: int) -> str:
    """Name a row, for messages."""
    return f"{name}, line {number}"


def _lines(contents: bytes, name: str) -> dict[int, dict[str, Any]]:
    lines = list(BytesIO(contents))
    filled = (number for number, line in enumerate(lines, start=1) if line.strip())
    return dict(zip(filled, parse_jsonl(lines, name), strict=True))


def _table(contents: bytes, name: str) -> dict[int, dict[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        rows = read_table(BytesIO(contents)).to_pylist()
    except (ArrowException, OSError) as error:
        raise AssetError(f"{name} is no parquet file that can be read ({error}); fetch it again") from error
    return dict(enumerate(rows, start=1))
