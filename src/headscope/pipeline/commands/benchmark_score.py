"""Scores of predictions that any tool wrote: one JSON object a line, each file one task.

A row has the answer (`pred`) and what it is scored against (`outputs` as RULER has it, or LongBench's `answers`), or is
joined to an exported prompt by `id`, else by `index`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from headscope import benchmarks
from headscope.benchmarks import registry
from headscope.benchmarks.jsonl import read_jsonl
from headscope.benchmarks.scoring import Score, is_null, mean, score
from headscope.errors import AssetError, ConfigError
from headscope.pipeline.progress import progress

ANSWERS = ("pred", "prediction")
REFERENCES = ("outputs", "answers", "references")


@dataclass(frozen=True)
class TaskScore:
    """The score of one task, or of one of its buckets.

    Attributes:
        folder: where its file lies, below the folder that was scored.
        kind: of the benchmark.
        task: its name.
        bucket: group of samples reported apart; empty: all.
        score: mean over samples, 0-100, two digits.
        samples: answers scored.
        nulls: empty ones among them.
        failed: answers that the official metric gave up on.
    """

    folder: str
    kind: str
    task: str
    bucket: str
    score: float
    samples: int
    nulls: int
    failed: int


def score_files(path: Path, prompts: Path | None) -> list[TaskScore]:
    """Score one file, or all of a folder.

    Args:
        path: a file called `<task>.jsonl`, or a folder of such files.
        prompts: exported prompts that rows without references are joined to.

    Raises:
        AssetError: there is no such file, a line is broken, or a row has no answer or nothing to score it against.
        ConfigError: no benchmark has a task of that name.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    files = [file for file in files if not file.stem.endswith(".calibration")]
    if not files:
        raise AssetError(f"{path} holds no *.jsonl; give a file <task>.jsonl or a folder of them")
    root = path if path.is_dir() else path.parent
    for file in files:
        kind_of(file.stem)  # a wrong name fails before anything is scored
    return [found for file in progress(files, "scoring") for found in _score_file(file, root, prompts)]


def averages(scores: Sequence[TaskScore]) -> Iterator[str]:
    """Say each benchmark's own average of each folder, or what it lacks."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for found in scores:
        if not found.bucket:
            groups.setdefault((found.folder, found.kind), {})[found.task] = found.score
    for (folder, kind), by_task in groups.items():
        name = f"{benchmarks.__name__}.{kind}.overall"
        if find_spec(name) is not None:
            where = f"{folder}: " if folder else ""
            try:
                named, value = import_module(name).average(by_task)
                yield f"{where}{named}: {value:.2f}"
            except ConfigError as error:
                yield f"{where}{error}"


def kind_of(task: str) -> str:
    """Return the kind of benchmark that has a task.

    Raises:
        ConfigError: none has.
    """
    known = {name: kind for kind in registry.KINDS for name in registry.names(kind)}
    if task not in known:
        near = get_close_matches(task, known, n=1, cutoff=0)[0]
        raise ConfigError(f"no benchmark has a task {task!r}; did you mean {near!r}? A file's name is its task's")
    return known[task]


def _score_file(file: Path, root: Path, prompts: Path | None) -> Iterator[TaskScore]:
    task, kind, folder = file.stem, kind_of(file.stem), file.parent.relative_to(root).as_posix()
    rows = read_jsonl(file)
    if not rows:
        raise AssetError(f"{file} is empty; give one answer a line")
    asked = _prompts_of(file, root, prompts)
    scored: list[tuple[list[str], str, Score]] = []
    for number, row in rows.items():
        where = f"{file}, line {number}"
        answer = _field(row, ANSWERS, where)
        prompt = _joined(row, kind, task, asked, where)
        scored.append((["", *prompt["buckets"]], answer, score(kind, prompt, answer)))
    for bucket in dict.fromkeys(sorted(name for names, _, _ in scored for name in names)):
        members = [(answer, found) for names, answer, found in scored if bucket in names]
        yield TaskScore(
            "" if folder == "." else folder,
            kind,
            task,
            bucket,
            mean([found for _, found in members]),
            len(members),
            sum(is_null(answer) for answer, _ in members),
            sum(found.failed for _, found in members),
        )


def _field(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    found = next((row[name] for name in names if row.get(name) is not None), None)
    if found is None:
        raise AssetError(f"{where} has none of {', '.join(names)}; it has {', '.join(row) or 'nothing'}")
    return found


def _prompts_of(file: Path, root: Path, prompts: Path | None) -> dict[Any, dict[str, Any]]:
    """Return the exported prompts that belong to a file of predictions, by id and by index."""
    if prompts is None:
        return {}
    same = prompts / file.relative_to(root)
    found = [same] if same.is_file() else sorted(prompts.rglob(file.name))
    if len(found) != 1:
        raise AssetError(
            f"{prompts} holds {len(found)} files {file.name}; put {file} into folders named as there, or name the one "
            "folder that it belongs to"
        )
    rows = read_jsonl(found[0]).values()
    return {row["index"]: row for row in rows} | {row["id"]: row for row in rows if "id" in row}


def _joined(
    row: Mapping[str, Any], kind: str, task: str, asked: Mapping[Any, Mapping[str, Any]], where: str
) -> dict[str, Any]:
    """Return what an answer is scored against: its own row's fields, else its prompt's."""
    prompt = asked.get(row.get("id"), asked.get(row.get("index"), {}))
    if asked and not prompt:
        raise AssetError(f"{where}: no exported prompt has id {row.get('id')!r} or index {row.get('index')!r}")
    known, found = {**row, **prompt}, registry.find(kind, task)
    references = _field(known, REFERENCES, where)
    return {
        "task": task,
        "metric": found.metric,
        "references": references if isinstance(references, list) else [references],
        "classes": known.get("classes") or known.get("all_classes") or [],
        "buckets": _buckets(known, found),
    }


def _buckets(known: Mapping[str, Any], task: Any) -> list[str]:
    """Return the groups that an answer is reported in: of length (as exported, or by words), and of difficulty."""
    bucket = known.get("bucket")
    if bucket is None and hasattr(task, "bucket_of") and "length" in known:
        bucket = task.bucket_of(known["length"])
    difficulty = {**known, **known.get("source", {})}.get("difficulty")
    return [name for name in (bucket, difficulty) if name]
