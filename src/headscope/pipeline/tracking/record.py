"""Records of finished results for any tracker: config, metrics, tables, pictures, files."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from headscope.heads.calibration.rules import RULES
from headscope.pipeline.store.files import results_root
from headscope.pipeline.store.parents import Parent
from headscope.pipeline.tracking.pair_means import margins_means, masses_means

MEANS = ("score", "sparsity", "sparsity_group", "kv_bytes")


@dataclass
class Record:
    """One result, as one run of a tracker.

    Attributes:
        id: digest of the node's key.
        name: the node's key, so that no two results have one name.
        stage: the stage that made it.
        config: its slice of the options, and its provenance: model, git commit, versions of packages.
        tags: its stage, model and task.
        metrics: numbers by name.
        tables: tables by name.
        pictures: PNG files by name.
        files: SHA-256 of the folder's files, by path in the folder.
    """

    id: str
    name: str
    stage: str
    config: dict[str, Any]
    tags: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """Read a result of any stage from its folder, `<results>/<stage>/<name>--<digest>`."""
    parent = Parent(folder)
    model = _model(folder)
    record = Record(folder.name.rpartition("--")[2], folder.name, parent.stage, {**parent.spec, "model": model})
    record.tags = [tag for tag in (parent.stage, model, parent.spec.get("task")) if tag]
    if parent.left_out:  # its other files are empty
        record.config["left_out"] = parent.left_out.reason
        _provenance(record, folder / "provenance.json")
        return record
    for path in sorted(folder.iterdir()):
        if reader := READERS.get(path.name) or READERS.get(path.suffix):
            reader(record, path)
    return record


def _model(folder: Path) -> str | None:
    """Return the name of the model that a result was made with: that of an asset among its ancestors."""
    parent = Parent(folder)
    if parent.stage == "assets":
        return str(parent.spec["name"]) if parent.spec["kind"] == "model" else None
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    models = (_model(results_root(folder) / address) for address in provenance["parents"])
    return next((model for model in models if model), None)


def _provenance(record: Record, path: Path) -> None:
    provenance = json.loads(path.read_text(encoding="utf-8"))
    record.files = provenance["files"]
    record.config |= {name: provenance[name] for name in ("git", "python", "packages")}
    names = [name for name in provenance if name == "seconds" or "memory" in name]
    record.metrics.update(_numbers({name: provenance[name] for name in names}))


def _rows(record: Record, path: Path) -> None:
    """Record all evaluation rows, and the means of each criterion and target over prompts."""
    rows = pd.read_parquet(path).drop(columns=["tokens", "sparsity_layer"])
    means = rows.groupby(["criterion", "target"], dropna=False)[list(MEANS)].mean().reset_index()
    record.tables |= {"rows": rows, "means": means}
    for row in means.to_dict("records"):
        label = row["criterion"] if pd.isna(row["target"]) else f"{row['criterion']}@{row['target']:g}"
        record.metrics.update({f"{mean}/{label}": row[mean] for mean in MEANS if not pd.isna(row[mean])})


def _answers(record: Record, path: Path) -> None:
    record.tables["answers"] = pd.read_parquet(path).drop(columns="tokens")


def _seconds(record: Record, path: Path) -> None:
    record.metrics["evaluation_seconds"] = float(pd.read_parquet(path, columns=["seconds"])["seconds"].sum())


def _calibration(record: Record, path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    for rule in found.keys() & set(RULES):
        reached: dict[str, float | None] = found[rule]
        record.tables[rule] = pd.DataFrame({"target": map(float, reached), rule: reached.values()})
        record.metrics.update(_numbers({f"{rule}@{target}": share for target, share in reached.items()}))


def _masses(record: Record, path: Path) -> None:
    record.metrics.update(masses_means(path))


def _margins(record: Record, path: Path) -> None:
    record.metrics.update(margins_means(path))


def _csv(record: Record, path: Path) -> None:
    record.tables[f"{path.stem}_table"] = pd.read_csv(path)


def _picture(record: Record, path: Path) -> None:
    record.pictures[path.stem] = path


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among some values: only these can be metrics."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


READERS: dict[str, Callable[[Record, Path], None]] = {
    "provenance.json": _provenance,
    "rows.parquet": _rows,
    "answers.parquet": _answers,
    "seconds.parquet": _seconds,
    "masses.parquet": _masses,
    "margins.parquet": _margins,
    "calibration.json": _calibration,
    ".csv": _csv,
    ".png": _picture,
}
