"""Finds the task of each file of predictions, and the exported prompts of a task.

Files are those that the official scripts write, or `<task>.jsonl` with the id or index of an exported prompt:

- RULER: `<task>.jsonl`, or `<task>-<number>.jsonl` of a run in chunks.
- LongBench: `<task>.jsonl`; below a folder `pred_e` it is LongBench-E's (elsewhere `<task>_e.jsonl`).
- LongBench-v2: `<model>.jsonl`, known by its fields (or `v2.jsonl`).
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from headscope.benchmarks import registry
from headscope.benchmarks.answers import Key, Target, keys_of, read_target
from headscope.benchmarks.jsonl import read_jsonl
from headscope.errors import AssetError, ConfigError

FORMAT_FIELD = "headscope_format"
FORMAT = 1
"""Of exported prompts and tables of scores, in a field of each row; other tools' rows have none."""


def kind_of(task: str) -> str:
    """Return the kind of benchmark that has a task.

    Raises:
        ConfigError: no benchmark has it.
    """
    known = _kinds()
    if task not in known:
        near = " or ".join(map(repr, get_close_matches(task, known, n=1))) or "'vt' or 'hotpotqa', for example"
        raise ConfigError(f"no benchmark has a task {task!r}; a file is named by its task: did you mean {near}?")
    return known[task]


@cache
def _kinds() -> dict[str, str]:
    """Return the kind of benchmark of every task."""
    return {name: kind for kind in registry.KINDS for name in registry.names(kind)}


def place(file: Path, root: Path) -> tuple[str, str]:
    """Return the folder of a file below `root`, and its task."""
    folder, stem = file.parent.relative_to(root), file.stem
    if "pred_e" in file.absolute().parts and f"{stem}_e" in _kinds():
        stem += "_e"
    elif (chunk := re.sub(r"-[0-9]+$", "", stem)) in _kinds():
        stem = chunk
    elif any({"response", "judge"} <= row.keys() for row in read_jsonl(file).values()):
        folder, stem = folder / stem, "v2"
    kind_of(stem)
    return "" if folder == Path() else folder.as_posix(), stem


def rows_of(file: Path, task: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of a task's file, after the words that say where it is.

    Raises:
        AssetError: a row is of a format that this headscope does not know, or says that it is another task's.
    """
    for number, row in read_jsonl(file).items():
        where = f"{file}, line {number}"
        if row.get(FORMAT_FIELD, FORMAT) != FORMAT:
            raise AssetError(
                f"{where}: field {FORMAT_FIELD!r} is {row[FORMAT_FIELD]!r:.40}, this headscope reads {FORMAT}; install "
                "the one that wrote it, or export again"
            )
        for name in ("task", "dataset"):
            other = row.get(name)
            if isinstance(other, str) and other in _kinds() and other.removesuffix("_e") != task.removesuffix("_e"):
                raise AssetError(f"{where}: field {name!r} is {other!r}, the file is named for {task!r}; rename it")
        yield where, row


def prompts_of(folder: str, name: str, task: Any, prompts: Path) -> dict[Key, Target]:
    """Return the exported prompts of a task by each of their names.

    Raises:
        AssetError: there is not one file for the task, or two of its prompts have the same name.
    """
    same = prompts / folder / f"{name}.jsonl"
    files = [same] if same.is_file() else sorted(prompts.rglob(same.name))
    if len(files) != 1:
        raise AssetError(
            f"{prompts} holds {len(files)} files {same.name}; put the answers into folders named as there, or name the "
            "one folder that they belong to"
        )
    targets: dict[Key, Target] = {}
    for where, row in rows_of(files[0], name):
        target = read_target(row, task, where)
        source = row.get("source")
        own = {"_id": source.get("_id")} if isinstance(source, dict) else {}
        keys = {*keys_of(row, target.where), *keys_of(own, target.where)}
        if not keys:
            raise AssetError(f"{target.where} has neither 'id' nor 'index'; export again")
        for key in keys:
            if key in targets:
                raise AssetError(f"{target.where} has {key[0]} {key[1]!r} as {targets[key].where}; export again")
            targets[key] = target
    if not targets:
        raise AssetError(f"{files[0]} is empty; export again")
    return targets
