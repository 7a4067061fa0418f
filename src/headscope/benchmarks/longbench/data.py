"""Rows of LongBench's form, read from the official zip or from a folder of its files; never more than one subset.

The loader script on the hub fails with `datasets` 4 and later, so the zip's members are read directly.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from headscope.benchmarks.jsonl import parse_jsonl, require, texts_of
from headscope.benchmarks.longbench.example import Example
from headscope.benchmarks.longbench.template import Template
from headscope.errors import AssetError

FIELDS: dict[str, type | tuple[type, ...]] = {
    "_id": str,
    "input": str,
    "context": str,
    "answers": list,
    "length": int,
    "all_classes": (list, type(None)),
}


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        id: the benchmark's own, `_id`.
        input: the question; empty where the template has none.
        context: the long text.
        answers: references.
        length: of the context in words (English, code) or characters (Chinese), as the authors counted.
        classes: what a classification chooses from, in their order, which its metric depends on.
    """

    id: str
    input: str
    context: str
    answers: list[str]
    length: int
    classes: list[str]


def read_records(source: Path, subset: str) -> list[Record]:
    """Return the rows of a subset.

    Args:
        source: the official `data.zip`, or a folder of `<subset>.jsonl`.
        subset: its official name.

    Raises:
        AssetError: the file or member is missing or damaged, or a row lacks a field; the message names its line.
    """
    content, name = _read(source, subset)
    rows = parse_jsonl(content.splitlines(), name)
    return [record_of(row, f"{name}, line {number}") for number, row in rows.items()]


def _read(source: Path, subset: str) -> tuple[bytes, str]:
    """Return a subset's file and its name for messages."""
    if source.is_dir():
        path = source / f"{subset}.jsonl"
        if not path.is_file():
            raise AssetError(f"{path} does not exist; the folder must hold the official file of each subset")
        return path.read_bytes(), str(path)
    try:
        archive = ZipFile(source)
    except (OSError, BadZipFile) as error:
        raise AssetError(f"{source} is neither LongBench's data.zip nor a folder ({error}); fetch it again") from error
    member = f"data/{subset}.jsonl"
    with archive:
        if member not in archive.namelist():
            raise AssetError(f"{source} has no member {member}; give the official data.zip")
        try:
            return archive.read(member), f"{source}: {member}"
        except (BadZipFile, zlib.error, EOFError) as error:
            raise AssetError(f"{source}: {member} is damaged ({error}); fetch it again") from error


def record_of(row: dict[str, Any], where: str) -> Record:
    """Return a row of the official form, checked; `where` names it in messages.

    Raises:
        AssetError: a field is missing or of another type, or there is no reference.
    """
    require(row, FIELDS, where)
    answers = texts_of(row["answers"], f"{where}: field 'answers'")
    classes = texts_of(row["all_classes"], f"{where}: field 'all_classes'") if row["all_classes"] else []
    return Record(row["_id"], row["input"], row["context"], answers, row["length"], classes)


def example_of(record: Record, template: Template, question: str, bucket: str = "") -> Example:
    """Fill a template of LongBench's form with a row.

    Args:
        record: the row.
        template: with the values `context` and, if the task has one, `input`.
        question: the value that the question starts with; empty: it follows the last value.
        bucket: the example's.

    Raises:
        AssetError: no text is left for the question.
    """
    text, offset = template.fill({"context": record.context, "input": record.input}, question)
    if offset == len(text):
        raise AssetError(f"row {record.id}: its field 'input' is empty, so there is no question; repair the row")
    source = {"_id": record.id, "words": record.length}
    return Example(text, offset, record.answers, bucket, record.classes, source)
