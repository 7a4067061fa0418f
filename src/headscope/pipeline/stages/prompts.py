"""Stage `prompts`: prompts of one task and length for one model's tokenizer, as an Arrow dataset in `dataset/`."""

import json
from pathlib import Path
from typing import Any

from headscope.benchmarks.registry import rows
from headscope.benchmarks.row import OFFICIAL, Request, Row
from headscope.errors import LengthError
from headscope.models.folder import read_tokenizer
from headscope.pipeline.store.files import canonical, digest
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write the prompts of both splits, evaluation first; the same slice gives the same bytes.

    Raises:
        ConfigError: an unknown benchmark or task, or a chat template that the tokenizer lacks.
        LengthError: a prompt is beyond the model's positions, or the length below the task's minimum.
        AssetError: the model's tokenizer or a benchmark file cannot be read.
    """
    from datasets import Dataset, disable_progress_bars

    prompts = rows(spec["kind"], _request(spec, parents))
    for row in prompts:
        if row.length > spec["positions"]:
            raise LengthError(
                f"task {spec['task']}, {row.split} prompt {row.index} of {row.length} tokens, answer included: the "
                f"model has {spec['positions']} positions; choose a shorter length, or a model (or RoPE override) with "
                "more"
            )
    table = [_columns(spec, row) for row in prompts]
    disable_progress_bars()
    dataset = Dataset.from_list(table)
    # The fingerprint would otherwise be random, and with it the bytes on disk.
    Dataset(dataset.data, fingerprint=digest([row["id"] for row in table], 16)).save_to_disk(out / "dataset")


def _request(spec: dict[str, Any], parents: Parents) -> Request:
    assets = {parent.spec["name"]: parent.folder for parent in parents.all("assets") if parent.spec["kind"] != "model"}
    files = {name: folder / _manifest(folder)["path"] for name, folder in assets.items()}
    model = parents.one("assets", kind="model").folder
    return Request(
        task=spec["task"],
        length=spec["length"],
        seed=spec["seed"],
        samples=spec["samples"],
        chat_template=spec["chat_template"],
        tokenizer=read_tokenizer(model / _manifest(model)["model"]),
        files=files,
        source=files.get(OFFICIAL),
    )


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _columns(spec: dict[str, Any], row: Row) -> dict[str, Any]:
    """Return one row of the dataset; its id digests all that the model reads, and nothing else."""
    content = {
        "text": row.prompt.text,
        "question_offset": row.prompt.question_offset,
        "max_new_tokens": row.max_new_tokens,
        "min_new_tokens": row.min_new_tokens,
        "stop_text": row.stop_text,
    }
    return {
        "id": digest(content, 16),
        "index": row.index,
        "split": row.split,
        "task": spec["task"],
        **content,
        "prefix_offset": row.prompt.prefix_offset,
        "answer_prefix": row.answer_prefix,
        "references": list(row.references),
        "metric": row.metric,
        "classes": list(row.classes),
        "bucket": row.bucket,
        "truncated": row.truncated,
        "length": row.length,
        "seed": spec["seed"],
        "source": canonical(dict(row.source)),
    }
