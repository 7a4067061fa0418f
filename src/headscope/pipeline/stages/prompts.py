"""Stage `prompts`: prompts of one task and length for one model's tokenizer, as an Arrow dataset in `dataset/`."""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from headscope.benchmarks.registry import rows
from headscope.benchmarks.row import OFFICIAL, Request, Row
from headscope.errors import LengthError
from headscope.models.folder import read_tokenizer
from headscope.pipeline.store import left_out
from headscope.pipeline.store.files import canonical, digest
from headscope.pipeline.store.parents import Parents

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "index": pa.int64(),
        "split": pa.string(),
        "task": pa.string(),
        "text": pa.string(),
        "question_offset": pa.int64(),
        "max_new_tokens": pa.int64(),
        "min_new_tokens": pa.int64(),
        "stop_text": pa.string(),
        "prefix_offset": pa.int64(),
        "answer_prefix": pa.string(),
        "references": pa.list_(pa.string()),
        "metric": pa.string(),
        "classes": pa.list_(pa.string()),
        "bucket": pa.string(),
        "truncated": pa.bool_(),
        "length": pa.int64(),
        "seed": pa.int64(),
        "source": pa.string(),
    }
)


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write the prompts of both splits, evaluation first; the same slice gives the same bytes.

    A task that cannot be drawn at the length with this tokenizer, in either split, is left out: it has no prompts, and
    left_out.json says why.

    Raises:
        ConfigError: an unknown benchmark or task, or a chat template that the tokenizer lacks.
        AssetError: the model's tokenizer or a benchmark file cannot be read.
    """
    from datasets import Dataset, disable_progress_bars

    try:
        prompts = _drawn(spec, parents)
    except LengthError as error:
        prompts = []
        left_out.write(out, left_out.of_error(spec, error))
        print(f"headscope: warning: left out: {error}", file=sys.stderr)
    table = [_columns(spec, row) for row in prompts]
    disable_progress_bars()
    # The fingerprint would otherwise be random, and with it the bytes on disk.
    fingerprint = digest([row["id"] for row in table], 16)
    dataset = Dataset(pa.Table.from_pylist(table, SCHEMA), fingerprint=fingerprint)
    dataset.save_to_disk(out / "dataset", num_shards=1)  # by default an empty one has no file, and cannot be read


def _drawn(spec: dict[str, Any], parents: Parents) -> list[Row]:
    """Draw the prompts.

    Raises:
        LengthError: the task has no prompts of this length with this tokenizer, or one is beyond the model's positions.
    """
    prompts = rows(spec["kind"], _request(spec, parents))
    for row in prompts:
        if row.length > spec["positions"]:
            raise LengthError(
                f"task {spec['task']} at length {spec['length']}: {row.split} prompt {row.index} has {row.length} "
                f"tokens, answer included, and the model {spec['positions']} positions; choose a shorter length, or a "
                "model (or RoPE override) with more"
            )
    return prompts


def _request(spec: dict[str, Any], parents: Parents) -> Request:
    assets = {parent.spec["name"]: parent.folder for parent in parents.all("assets") if parent.spec["kind"] != "model"}
    files = {name: folder / _manifest(folder)["path"] for name, folder in assets.items()}
    model = parents.one("assets", kind="model").folder.absolute()
    return Request(
        task=spec["task"],
        length=spec["length"],
        seed=spec["seed"],
        samples=spec["samples"],
        chat_template=spec["chat_template"],
        tokenizer=_tokenizer(model, (model / "manifest.json").read_text("utf-8")),
        files=files,
        source=files.get(OFFICIAL),
    )


@lru_cache(maxsize=1)
def _tokenizer(asset: Path, manifest: str) -> Any:
    """Read a model's tokenizer, which stays for the next jobs of this process."""
    return read_tokenizer(asset / json.loads(manifest)["model"])


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
