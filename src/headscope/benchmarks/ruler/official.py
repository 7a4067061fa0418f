"""RULER's own samples, as its generators wrote them: taken as they are, but measured and counted afresh."""

from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from headscope.benchmarks.chat import assemble
from headscope.benchmarks.encoding import count_tokens
from headscope.benchmarks.jsonl import read_jsonl, require
from headscope.benchmarks.registry import find, module_of
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.task import Rendering, Split
from headscope.errors import AssetError, LengthError

# So many characters of a task's answer prefix find it at the end of an input, as in the official code.
TELLING = 10
SPLITS: tuple[Split, ...] = ("evaluation", "calibration")


@dataclass(frozen=True)
class OfficialSample:
    """One line of an official file.

    Attributes:
        line: from 1.
        index: the file's own; for needle tasks a place in the text, and not unique.
        rendering: its text, parted before the question, which is the last line.
    """

    line: int
    index: Any
    rendering: Rendering


def rows(request: Request, path: Path) -> list[Row]:
    """Return the first samples of an official file for evaluation, and the next ones for calibration.

    Raises:
        AssetError: the file is missing or has too few lines, or a line is damaged; the message names file and line.
        LengthError: a sample is longer than asked for with this tokenizer.
    """
    task = find("ruler", request.task)
    samples = iter(read(path, request.task, sum(request.samples[split] for split in SPLITS)))
    return [
        _row(request, task, split, index, sample, path)
        for split in SPLITS
        for index, sample in enumerate(islice(samples, request.samples[split]))
    ]


def read(path: Path, task: str, count: int) -> list[OfficialSample]:
    """Return the first `count` samples of a file; every line is checked.

    Raises:
        AssetError: as `rows`.
    """
    found = read_jsonl(path)
    with path.open("rb") as lines:
        numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    samples = [_sample(row, task, number, f"{path}, line {number}") for number, row in zip(numbers, found, strict=True)]
    if len(samples) < count:
        raise AssetError(
            f"{path} ends at line {numbers[-1] if numbers else 0} with {len(samples)} samples of {task}, but {count} "
            "are asked for, evaluation and calibration together; ask for fewer or give a larger file"
        )
    return samples[:count]


def _sample(row: dict[str, Any], task: str, line: int, where: str) -> OfficialSample:
    require(row, ("index", "input", "outputs"), where)
    text, prefix, outputs = row["input"], row.get("answer_prefix"), row["outputs"]
    if not isinstance(text, str) or not isinstance(prefix, str | None):
        raise AssetError(f"{where}: 'input' or 'answer_prefix' is no text; give the file as RULER wrote it")
    if not isinstance(outputs, list) or not outputs or not all(isinstance(output, str) for output in outputs):
        raise AssetError(f"{where}: 'outputs' is no list of texts; give the file as RULER wrote it")
    if prefix is None:
        text, prefix = _parted(text, task, where)
    question = text.rstrip("\n").rfind("\n") + 1
    return OfficialSample(line, row["index"], Rendering(text[:question], text[question:], prefix, outputs))


def _parted(text: str, task: str, where: str) -> tuple[str, str]:
    """Part an older file's input from the answer prefix at its end."""
    start = text.rfind(import_module(module_of("ruler", task)).ANSWER_PREFIX[:TELLING])
    if start < 0:
        raise AssetError(
            f"{where} has no field 'answer_prefix', and the prefix of {task} is not in its input; give a file of {task}"
        )
    return text[:start], text[start:]


def _row(request: Request, task: Any, split: Split, index: int, sample: OfficialSample, path: Path) -> Row:
    prompt = assemble(sample.rendering, request.tokenizer, request.chat_template)
    length = count_tokens(request.tokenizer, prompt.text) + task.max_new_tokens
    if length > request.length:
        raise LengthError(
            f"task {request.task} at length {request.length}: {path}, line {sample.line} has {length} tokens with this "
            f"tokenizer, answer included; choose a length of at least {length}"
        )
    return Row(
        index=index,
        split=split,
        prompt=prompt,
        answer_prefix=sample.rendering.answer_prefix,
        references=sample.rendering.references,
        metric=task.metric,
        max_new_tokens=task.max_new_tokens,
        length=length,
        source={"index": sample.index, "line": sample.line},
    )
