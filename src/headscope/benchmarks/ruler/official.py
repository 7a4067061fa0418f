"""RULER's own samples, as its generators wrote them: taken as they are, but measured and counted afresh."""

from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from headscope.benchmarks.jsonl import read_jsonl, refuse_half_characters, require, whole_of
from headscope.benchmarks.registry import find, module_of
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.sampling import Sample
from headscope.benchmarks.task import SPLITS, Rendering
from headscope.errors import AssetError, LengthError

# So many characters of a task's answer prefix find it at the end of an input, as in the official code.
PREFIX_START = 10


def rows(request: Request, path: Path) -> list[Row]:
    """Return the first samples of an official file for evaluation, and the next ones for calibration.

    Raises:
        AssetError: the file is missing or has too few lines, or a line is damaged; the message names file and line.
        LengthError: a sample is longer than the request allows with this tokenizer.
    """
    task = find("ruler", request.task)
    renderings = iter(read(path, request.task, sum(request.samples[split] for split in SPLITS)).items())
    rows = []
    for split in SPLITS:
        for number, (line, (index, rendering)) in enumerate(islice(renderings, request.samples[split])):
            sample = Sample.of(rendering, None, task, request)
            if sample.length > request.length:
                raise LengthError(
                    f"{path}, line {line} has {sample.length} tokens with this tokenizer, answer included; choose a "
                    f"length of at least {sample.length}"
                )
            rows.append(sample.row(number, split, task, {"index": index, "line": line}))
    return rows


def read(path: Path, task: str, count: int) -> dict[int, tuple[int, Rendering]]:
    """Return the first `count` samples of a file by line, each with the file's own index; every line is checked.

    That index is for needle tasks a place in the text, and not unique. The question is a text's last line.

    Raises:
        AssetError: as `rows`.
    """
    rows = read_jsonl(path).items()
    samples = {line: _sample(row, task, f"{path}, line {line}") for line, row in rows}
    if len(samples) < count:
        raise AssetError(
            f"{path} ends at line {max(samples, default=0)} with {len(samples)} samples of {task}, but {count} are "
            "asked for, evaluation and calibration together; ask for fewer or give a larger file"
        )
    return dict(islice(samples.items(), count))


def _sample(row: dict[str, Any], task: str, where: str) -> tuple[int, Rendering]:
    require(row, {"index": object, "input": str, "outputs": list}, where)
    text, prefix, outputs = row["input"], row.get("answer_prefix"), row["outputs"]
    texts = [output for output in outputs if isinstance(output, str) and output.strip()]
    if not isinstance(prefix, str | None) or not outputs or texts != outputs:
        raise AssetError(
            f"{where}: 'answer_prefix' is no text, or 'outputs' no list of texts with something in them; give the file "
            "as RULER wrote it"
        )
    refuse_half_characters(prefix, f"{where}: field 'answer_prefix'")
    if prefix is None:
        text, prefix = _without_prefix(text, task, where)
    question = text.rstrip("\n").rfind("\n") + 1
    rendering = Rendering(text[:question], text[question:], prefix, outputs)
    return whole_of(row["index"], f"{where}: field 'index'"), rendering


def _without_prefix(text: str, task: str, where: str) -> tuple[str, str]:
    """Part an older file's input from the answer prefix at its end."""
    start = text.rfind(import_module(module_of("ruler", task)).ANSWER_PREFIX[:PREFIX_START])
    if start < 0:
        raise AssetError(
            f"{where} has no field 'answer_prefix', and the prefix of {task} is not in its input; give a file of {task}"
        )
    return text[:start], text[start:]
