"""Scores of any tool's predictions: one file a task, one JSON object a line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.benchmarks import registry
from headscope.benchmarks.answers import Answer, Key, Target, read_answer
from headscope.benchmarks.scoring import Score, is_null, mean, score
from headscope.errors import AssetError
from headscope.pipeline.commands.benchmark_files import kind_of, place, prompts_of, rows_of
from headscope.pipeline.progress import progress


@dataclass(frozen=True)
class TaskScore:
    """The score of one task, or of one of its buckets.

    Attributes:
        folder: of its files, below the folder that was scored.
        kind: of the benchmark.
        task: its name.
        bucket: group of samples; empty for all.
        score: mean over samples, 0-100, two digits.
        samples: answers scored.
        nulls: empty answers.
        failed: answers on which the official metric failed.
        answered: distinct prompts among the task's answers.
        prompts: prompts of the task; None if their number is not known.
        double: file and line of the first answer to a prompt that has one already, or empty.
    """

    folder: str
    kind: str
    task: str
    bucket: str
    score: float
    samples: int
    nulls: int
    failed: int
    answered: int
    prompts: int | None
    double: str

    @property
    def complete(self) -> bool:
        """Whether each prompt of the task is answered once, as far as is known."""
        return not self.double and self.prompts in (None, self.answered)


def score_files(path: Path, prompts: Path | None) -> list[TaskScore]:
    """Score one file, or all of a folder.

    Args:
        path: a file, or a folder of files.
        prompts: folder of exported prompts, for rows without references, and to count the prompts without answer.

    Raises:
        AssetError: there is no file, or a line is broken or lacks what it needs; the message names file and line.
        ConfigError: no benchmark has a task of a file's name.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    files = [file for file in files if not file.stem.endswith(".calibration")]
    if not files:
        raise AssetError(f"{path} holds no *.jsonl; give a file <task>.jsonl or a folder of them")
    root = path if path.is_dir() else path.parent
    groups: dict[tuple[str, str], list[Path]] = {}
    for file in files:  # a wrong name fails before anything is scored
        groups.setdefault(place(file, root), []).append(file)
    tasks = progress(list(groups.items()), "scoring")
    return [part for (folder, task), members in tasks for part in _score_task(folder, task, members, prompts)]


def _score_task(folder: str, name: str, files: Sequence[Path], prompts: Path | None) -> Iterator[TaskScore]:
    """Yield the scores of a task and of its buckets."""
    kind = kind_of(name)
    task = registry.find(kind, name)
    exported = {} if prompts is None else prompts_of(folder, name, task, prompts)
    answers = [answer for file in files for answer in _read(file, name, task, exported)]
    count = len({target.where for target in exported.values()}) if exported else _official_count(task)
    answered, double = _distinct(answers, count)
    scored = [(answer, _score(kind, name, task, answer)) for answer in answers]
    for bucket in ("", *sorted({bucket for answer in answers for bucket in answer.target.buckets})):
        members = [pair for pair in scored if bucket in ("", *pair[0].target.buckets)]
        yield TaskScore(
            folder.encode(errors="backslashreplace").decode(),  # a name that is no UTF-8 can be read, but not printed
            kind,
            name,
            bucket,
            mean([result for _, result in members]),
            len(members),
            sum(is_null(answer.text) for answer, _ in members),
            sum(result.failed for _, result in members),
            answered,
            count,
            double,
        )


def _read(file: Path, name: str, task: Any, exported: dict[Key, Target]) -> list[Answer]:
    answers = [read_answer(row, task, where, exported) for where, row in rows_of(file, name)]
    if not answers:
        raise AssetError(f"{file} is empty; give one answer a line")
    return answers


def _score(kind: str, name: str, task: Any, answer: Answer) -> Score:
    target = answer.target
    row = {"task": name, "metric": task.metric, "references": target.references, "classes": target.classes}
    try:
        return score(kind, row, answer.text)
    except AssetError as error:
        raise AssetError(f"{target.where}: {error}") from error


def _distinct(answers: Sequence[Answer], count: int | None) -> tuple[int, str]:
    """Return how many prompts have an answer, and the place of the first answer too many."""
    seen, number, double = set(), 0, ""
    for answer in answers:
        identity = answer.target.identity
        if identity in seen or number == count:
            double = double or answer.where
            continue
        number += 1
        if identity is not None:
            seen.add(identity)
    return number, double


def _official_count(task: Any) -> int | None:
    """Return the number of rows of a task's official file, or None for generated tasks."""
    samples = getattr(task, "samples", None)
    return sum(samples) if isinstance(samples, tuple) else samples
