"""Prompts of one task and length for one model's tokenizer, as an Arrow dataset in `dataset/`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headscope.benchmarks.ruler.samples import Sample, Sampler
from headscope.errors import ConfigError, LengthError
from headscope.models.folder import read_tokenizer
from headscope.pipeline.files import canonical, digest
from headscope.pipeline.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write the samples of both splits, evaluation first; the same spec gives the same bytes.

    Raises:
        ConfigError: an unknown benchmark or task, or a chat template asked of a tokenizer without one.
        LengthError: the length is beyond the model's positions or below the task's minimum.
        AssetError: the model's tokenizer cannot be loaded.
    """
    from datasets import Dataset, disable_progress_bars

    if spec["benchmark"] != "ruler":
        raise ConfigError(f"unknown benchmark {spec['benchmark']!r}; known: 'ruler'")
    if spec["length"] > spec["positions"]:
        raise LengthError(
            f"task {spec['task']} at length {spec['length']}: the model has {spec['positions']} positions; choose a "
            "shorter length, or a model (or RoPE override) with more"
        )
    prose = (parents.one("assets", kind="text").folder / "prose.txt").read_text(encoding="utf-8")
    model = parents.one("assets", kind="model").folder
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    tokenizer = read_tokenizer(model / manifest["model"])
    sampler = Sampler(spec["task"], spec["length"], spec["seed"], prose, tokenizer, spec["chat_template"])
    rows = [
        _row(spec, sampler, split, index, sample)
        for split in ("evaluation", "calibration")
        for index, sample in enumerate(sampler.samples(split, spec["samples"][split]))
    ]
    disable_progress_bars()
    table = Dataset.from_list(rows)
    # The fingerprint would otherwise be random, and with it the bytes on disk.
    Dataset(table.data, fingerprint=digest([row["id"] for row in rows], 16)).save_to_disk(out / "dataset")


def _row(spec: dict[str, Any], sampler: Sampler, split: str, index: int, sample: Sample) -> dict[str, Any]:
    """Return one row of the dataset; its id says what a model is given, and nothing else."""
    given = {
        "text": sample.prompt.text,
        "question_offset": sample.prompt.question_offset,
        "max_new_tokens": sampler.task.max_new_tokens,
    }
    return {
        "id": digest(given, 16),
        "index": index,
        "split": split,
        "task": spec["task"],
        **given,
        "prefix_offset": sample.prompt.prefix_offset,
        "answer_prefix": sample.rendering.answer_prefix,
        "references": sample.rendering.references,
        "metric": sampler.task.metric,
        "length": sample.length,
        "seed": spec["seed"],
        "choices": canonical(asdict(sample.choices)),
    }
