"""Finished prompts as plain files: one JSON object a line, in a folder that `datasets` loads too.

`<folder>/<benchmark>/<length>/<task>.jsonl` holds the evaluation prompts, `<task>.calibration.jsonl` the others. The
field names are RULER's where it has one: index, input, answer_prefix, outputs, length.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from headscope.pipeline.commands.benchmark_files import FORMAT, FORMAT_FIELD
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.store.files import atomic_folder

SPLITS = {"evaluation": "", "calibration": ".calibration"}


def export(plan: Plan, folder: Path) -> list[Path]:
    """Write the prompts of all evaluated cells of a plan; return the files, relative to `folder`.

    Raises:
        AssetError: the disk is full or the folder cannot be written.
    """
    files: list[Path] = []
    with atomic_folder(folder) as temporary:
        for node in plan.nodes["evaluation"].values():
            files += _write(plan, node, temporary)
        header = yaml.safe_dump({"configs": list(_configs(files))}, sort_keys=False)
        (temporary / "README.md").write_text(f"---\n{header}---\n", encoding="utf-8")
    return files


def _write(plan: Plan, evaluation: Node, folder: Path) -> Iterator[Path]:
    """Write one cell's prompts, a file a split."""
    from datasets import load_from_disk

    spec = json.loads(evaluation.spec)
    [prompts] = [parent for parent in evaluation.parents if parent.stage == "prompts"]
    rows = list(load_from_disk(str(plan.root / plan.folder(prompts) / "dataset")))
    for split, suffix in SPLITS.items():
        exported = [_row(spec, row) for row in rows if row["split"] == split]
        file = Path(spec["benchmark"], str(spec["length"]), f"{spec['task']}{suffix}.jsonl")
        if exported:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in exported]
            (folder / file).write_text("".join(lines), encoding="utf-8")
            yield file


def _row(spec: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return a prompt in RULER's field names; the model reads `input` and then `answer_prefix`."""
    same = ("length", "max_new_tokens", "min_new_tokens", "stop_text", "metric", "classes", "bucket", "truncated", "id")
    return {
        FORMAT_FIELD: FORMAT,
        "index": row["index"],
        "task": spec["task"],
        "kind": spec["kind"],
        "input": row["text"][: row["prefix_offset"]],
        "answer_prefix": row["answer_prefix"],
        "outputs": row["references"],
        **{name: row[name] for name in same},
        "source": json.loads(row["source"]),
    }


def _configs(files: list[Path]) -> Iterator[dict[str, Any]]:
    """Say for `datasets` which file is which split of which configuration."""
    grouped: dict[str, list[dict[str, str]]] = {}
    for file in files:
        task, _, split = file.stem.partition(".")
        name = "-".join([*file.parts[:-1], task])
        grouped.setdefault(name, []).append({"split": split or "evaluation", "path": file.as_posix()})
    return ({"config_name": name, "data_files": splits} for name, splits in grouped.items())
