"""The rows of a file of questions, which is published as JSON lines or as parquet."""

from collections.abc import Mapping
from io import BytesIO

from headscope.benchmarks.jsonl import Rows, parse_jsonl, require
from headscope.errors import AssetError

PARQUET = b"PAR1"


def records(contents: bytes, name: str, fields: Mapping[str, type]) -> Rows:
    """Return the rows of a file by their line, or row of the table, from 1.

    Args:
        contents: the file, parquet if it starts as parquet does, else one JSON object a line.
        name: the file's, for messages.
        fields: the type of each field that a row must have.

    Raises:
        AssetError: the file is damaged, or a field is missing or has another type; the message names file and line.
    """
    rows = _table(contents, name) if contents.startswith(PARQUET) else parse_jsonl(BytesIO(contents), name)
    for number, row in rows.items():
        require(row, fields, place(name, number))
    return rows


def place(name: str, number: int) -> str:
    """Name a row, for messages."""
    return f"{name}, line {number}"


def _table(contents: bytes, name: str) -> Rows:
    from pyarrow import ArrowException
    from pyarrow.parquet import read_table

    try:
        rows = read_table(BytesIO(contents)).to_pylist()
    except (ArrowException, OSError) as error:
        raise AssetError(f"{name} is no parquet file that can be read ({error}); fetch it again") from error
    return dict(enumerate(rows, start=1))
