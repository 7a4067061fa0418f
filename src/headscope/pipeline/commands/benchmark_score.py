"""Scores of any tool's predictions: one file a task, one JSON object a line.

A row has the answer (`pred`) and its references (`outputs` as in RULER, or LongBench's `answers`), or is joined to an
exported prompt by `id` or else by `index`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

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
        folder: of its file, below the folder that was scored.
        kind: of the benchmark.
        task: its name.
        bucket: group of samples; empty for all.
        score: mean over samples, 0-100, two digits.
        samples: answers scored.
        nulls: empty answers.
        failed: answers on which the official metric failed.
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
        path: a file `<task>.jsonl`, or a folder of such files.
        prompts: folder of exported prompts, for rows without references.

    Raises:
        AssetError: there is no file, a line is broken, or a row lacks an answer or references.
        ConfigError: no benchmark has a task of a file's name.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    files = [file for file in files if not file.stem.endswith(".calibration")]
    if not files:
        raise AssetError(f"{path} holds no *.jsonl; give a file <task>.jsonl or a folder of them")
    root = path if path.is_dir() else path.parent
    for file in files:
        kind_of(file.stem)  # a wrong name fails before anything is scored
    return [of_task for file in progress(files, "scoring") for of_task in _score_file(file, root, prompts)]


def averages(scores: Sequence[TaskScore]) -> Iterator[str]:
    """Yield a line with each benchmark's own average of each folder, or with the tasks that it lacks."""
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for of_task in scores:
        if not of_task.bucket:
            groups.setdefault((of_task.folder, of_task.kind), {})[of_task.task] = of_task.score
    for (folder, kind), by_task in groups.items():
        prefix = f"{folder}: " if folder else ""
        try:
            name, value = import_module(f"headscope.benchmarks.{kind}.overall").average(by_task)
            yield f"{prefix}{name}: {value:.2f}"
        except ConfigError as error:
            yield f"{prefix}{error}"


def kind_of(task: str) -> str:
    """Return the kind of benchmark that has a task.

    Raises:
        ConfigError: no benchmark has it.
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
    exported = _prompts_of(file, root, prompts)
    scored: list[tuple[list[str], str, Score]] = []
    for number, row in rows.items():
        where = f"{file}, line {number}"
        answer = _field(row, ANSWERS, where)
        prompt = _joined(row, kind, task, exported, where)
        scored.append((["", *prompt["buckets"]], answer, score(kind, prompt, answer)))
    for bucket in dict.fromkeys(sorted(name for names, _, _ in scored for name in names)):
        members = [(answer, one) for names, answer, one in scored if bucket in names]
        yield TaskScore(
            "" if folder == "." else folder,
            kind,
            task,
            bucket,
            mean([one for _, one in members]),
            len(members),
            sum(is_null(answer) for answer, _ in members),
            sum(one.failed for _, one in members),
        )


def _field(row: Mapping[str, Any], names: Sequence[str], where: str) -> Any:
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if value is None:
        raise AssetError(f"{where} has none of {', '.join(names)}; it has {', '.join(row) or 'nothing'}")
    return value


def _prompts_of(file: Path, root: Path, prompts: Path | None) -> dict[Any, dict[str, Any]]:
    """Return the exported prompts of a file of predictions, by id and by index."""
    if prompts is None:
        return {}
    same = prompts / file.relative_to(root)
    files = [same] if same.is_file() else sorted(prompts.rglob(file.name))
    if len(files) != 1:
        raise AssetError(
            f"{prompts} holds {len(files)} files {file.name}; put {file} into folders named as there, or name the one "
            "folder that it belongs to"
        )
    rows = read_jsonl(files[0]).values()
    return {row["index"]: row for row in rows} | {row["id"]: row for row in rows if "id" in row}


def _joined(
    row: Mapping[str, Any], kind: str, task: str, exported: Mapping[Any, Mapping[str, Any]], where: str
) -> dict[str, Any]:
    """Return the fields that an answer is scored with: its exported prompt's, or else its own row's."""
    prompt = exported.get(row.get("id"), exported.get(row.get("index"), {}))
    if exported and not prompt:
        raise AssetError(f"{where}: no exported prompt has id {row.get('id')!r} or index {row.get('index')!r}")
    fields, benchmark_task = {**row, **prompt}, registry.find(kind, task)
    references = _field(fields, REFERENCES, where)
    return {
        "task": task,
        "metric": benchmark_task.metric,
        "references": references if isinstance(references, list) else [references],
        "classes": fields.get("classes") or fields.get("all_classes") or [],
        "buckets": _buckets(fields, benchmark_task),
    }


def _buckets(fields: Mapping[str, Any], task: Any) -> list[str]:
    """Return the groups of an answer: by length (as exported, or from its words) and by difficulty."""
    bucket = fields.get("bucket")
    if bucket is None and hasattr(task, "bucket_of") and "length" in fields:
        bucket = task.bucket_of(fields["length"])
    difficulty = {**fields, **fields.get("source", {})}.get("difficulty")
    return [name for name in (bucket, difficulty) if name]
