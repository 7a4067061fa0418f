"""Finished nodes with made-up numbers, written as the stages write them, for the tests of figures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headscope.figures.common.tables import Tables

TARGETS = (0.3, 0.5, 0.65, 0.8, 0.9)
GAUSSIAN = {"kind": "gaussian", "covariance": "full"}
CRITERIA: dict[str, dict[str, Any]] = {
    "dense": {"kind": "dense", "calibrated_on": None, "estimator": None, "outliers": None},
    "local": {"kind": "local", "calibrated_on": None, "estimator": None, "outliers": None},
    "oracle": {"kind": "oracle", "calibrated_on": "calibration", "estimator": None, "outliers": None},
    "static_oracle": {"kind": "static", "calibrated_on": "evaluation", "estimator": None, "outliers": None},
    "static": {"kind": "static", "calibrated_on": "other_tasks", "estimator": None, "outliers": None},
    "qada": {
        "kind": "qada", "calibrated_on": "calibration", "outliers": None,
        "estimator": {**GAUSSIAN, "name": "gaussian_prompt"},
    },
    "qada_random_words": {
        "kind": "qada", "calibrated_on": "calibration", "outliers": None,
        "estimator": {**GAUSSIAN, "name": "gaussian_random_words"},
    },
}  # fmt: skip
# Score kept at a target, as a share of dense: what each criterion loses by .9.
LOSS = {"oracle": 0.2, "static_oracle": 0.7, "static": 1.6, "qada": 0.35, "qada_random_words": 0.6}
ESTIMATORS = {"gaussian_prompt": (0.6, 0.8), "gaussian_random_words": (-0.5, 1.6)}


@dataclass(frozen=True)
class FakeNode:
    """A folder and its slice, as `headscope.pipeline.store.parents.Parent` has them."""

    folder: Path
    spec: dict[str, Any]


def title(tasks, samples=6, lengths=(1024,)):
    ruler = {"tasks": list(tasks), "lengths": list(lengths), "most": "", "samples": samples}
    return {"model": "SmolLM2-135M-Instruct", "benchmarks": {"ruler": ruler}, "seed": [42]}


def row(task, index, criterion, target, score, sparsity, length=1024, seed=42):
    return {
        "prompt": f"{task}-{length}-{index}", "index": index, "task": task, "length": length, "seed": seed,
        "benchmark": "ruler", "bucket": "", "truncated": False, "metric_failed": False,
        "criterion": criterion, "target": target, "text": "", "tokens": [1, 2], "stop": "eos",
        "score": float(score), "sparsity": float(sparsity),
        "sparsity_group": float(sparsity) ** 2, "kv_bytes": 1 - float(sparsity) / 2,
        "sparsity_layer": [float(sparsity)] * 3, "queries": 40,
    }  # fmt: skip


def write_evaluation(folder, task, rows, length=1024, criteria=CRITERIA):
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return FakeNode(folder, {
        "benchmark": "ruler", "task": task, "length": length, "seed": rows[0]["seed"],
        "criteria": criteria, "targets": list(TARGETS), "head_dim": 64, "dtype": "bfloat16",
        "window": {"sink": 16, "recent": 128},
        "calibrating": {"benchmark": "ruler", "length": length},
    })  # fmt: skip


def evaluation(root, task, dense=90.0, samples=6, length=1024, criteria=CRITERIA, seed=42):
    """Rows whose mean score falls with the target, noisy from prompt to prompt."""
    rng = np.random.default_rng([seed, length, *task.encode()])
    rows = []
    for index in range(samples):
        hard = rng.random()
        for name in criteria:
            for target in (float("nan"),) if name in ("dense", "local") else TARGETS:
                lost = LOSS.get(name, 0.5) * (target**4 if target > 0.4 else 0)
                share = {"dense": 1.0, "local": 0.1}.get(name, 1 - lost)
                score = 100 * np.floor(4 * np.clip(dense / 100 * share + 0.5 * (hard - 0.5), 0, 1)) / 4
                sparsity = {"dense": 0.0, "local": 1.0}.get(name, np.clip(target + rng.normal(0, 0.03), 0, 1))
                rows.append(row(task, index, name, target, score, sparsity, length, seed))
    return write_evaluation(root / "evaluation" / f"{task}-{length}", task, rows, length, criteria)


def oracle(root, task, samples=6, length=1024, layers=30, heads=9, queries=40, seed=42, estimators=ESTIMATORS):
    """Masses of heads that are mostly steady, some swinging, with noisy and biased estimates of the bulk."""
    folder = root / "oracle" / f"{task}-{length}"
    (folder / "estimates").mkdir(parents=True)
    character = np.random.default_rng(0).normal(2.5, 3.0, size=(layers, heads))
    rng = np.random.default_rng([seed, length, *task.encode()])
    prompts = [(f"{task}-{length}-{n}", "evaluation" if n < samples else "calibration") for n in range(samples + 2)]
    columns: dict[str, list[Any]] = {"prompt": [], "split": [], "layer": [], "query": []}
    local, bulk, guesses = [], [], {name: [] for name in estimators}
    for prompt, split in prompts:
        mood = rng.normal(0, 0.7, size=(layers, heads))
        for layer in range(layers):
            columns["prompt"] += [prompt] * queries
            columns["split"] += [split] * queries
            columns["layer"] += [layer] * queries
            columns["query"] += range(length, length + queries)
            true = rng.normal(np.log(length - 144) + 1.5, 1.5, size=(queries, heads))
            bulk.append(true)
            local.append(true + character[layer] + mood[layer] + rng.normal(0, 1.3, size=(queries, heads)))
            for name, (bias, noise) in estimators.items():
                guesses[name].append(true + bias + noise * rng.normal(size=(queries, heads)))
    _write_masses(folder, columns, local, bulk, guesses, length)
    _write_quantiles(folder, rng, prompts[0][0], layers, heads)
    spec = {
        "benchmark": "ruler",
        "task": task,
        "length": length,
        "seed": seed,
        "estimators": {name: {"kind": "gaussian"} for name in estimators},
    }
    return FakeNode(folder, spec)


def _write_masses(folder, columns, local, bulk, guesses, length):
    shared = {name: pa.array(values) for name, values in columns.items()}
    shared["layer"] = shared["layer"].cast(pa.int16())
    rows = len(columns["prompt"])
    constant = {"segment": pa.array(["answer"] * rows), "bulk_size": pa.array([length - 144] * rows, pa.int32())}
    masses = {**shared, **constant, "local": lists(local), "bulk": lists(bulk)}
    pq.write_table(pa.table(masses), folder / "masses.parquet")
    for name, guess in guesses.items():
        keys = {key: shared[key] for key in ("prompt", "layer", "query")}
        pq.write_table(pa.table({**keys, "bulk": lists(guess)}), folder / "estimates" / f"{name}.parquet")


def _write_quantiles(folder, rng, prompt, layers, heads):
    rows = []
    for layer in range(layers):
        for head in range(heads):
            for query in range(4):
                scores = rng.normal(size=800) + rng.exponential(0.8, size=800)
                quantiles = np.percentile(scores, range(1, 100)).astype(np.float32)
                rows.append({"prompt": prompt, "layer": layer, "head": head, "query": query, "mean": scores.mean(),
                             "std": scores.std(), "quantiles": quantiles, "n": 800})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "score_quantiles.parquet")


def lists(parts):
    """Arrays [rows, heads], one below the other, as a column of float32 lists."""
    stacked = np.concatenate(parts).astype(np.float32)
    return pa.array(list(stacked), pa.list_(pa.float32()))


def margins(root, oracle_node, criteria):
    """Margins of criteria as functions of the exact log-odds, in another order of rows; lost norms follow the odds."""
    masses = pq.read_table(oracle_node.folder / "masses.parquet")
    keys = [masses[name].to_numpy() for name in ("prompt", "split", "layer", "query")]
    odds = np.stack(masses["local"].to_numpy()) - np.stack(masses["bulk"].to_numpy())
    order = np.random.default_rng(0).permutation(len(masses))
    parts = []
    for name, margin in criteria.items():
        columns = dict(zip(("prompt", "split", "layer", "query"), (pa.array(k[order]) for k in keys), strict=True))
        lists_of = {"margin": lists([margin(odds)[order]]), "lost": lists([-odds[order] / 2])}
        parts.append(pa.table({**columns, "criterion": pa.array([name] * len(order)), **lists_of}))
    folder = root / "margins" / oracle_node.folder.name
    folder.mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), folder / "margins.parquet")
    place = {name: oracle_node.spec[name] for name in ("benchmark", "task", "length", "seed")}
    return FakeNode(folder, {**place, "criteria": {name: {} for name in criteria}})


def calibration(root, criterion, tasks=(None,), length=1024, layers=30, heads=9, targets=TARGETS):
    """One node a criterion, or one a task for static rankings; thresholds as the fake masses need them."""
    nodes = []
    for task in tasks:
        if criterion.startswith("static"):
            rank = np.random.default_rng(0).normal(2.5, 3.0, size=(layers, heads)).argsort(axis=None).argsort()
            long = {t: (rank < (1 - t) * rank.size).reshape(layers, heads).astype(int).tolist() for t in targets}
            fitted = {f"{t:g}": {"long": long[t], "layers": list(range(layers))} for t in targets}
        else:
            fitted = {f"{t:g}": {"threshold": float(2.5 - 8 * (t - 0.5))} for t in targets}
        folder = root / "calibration" / f"{criterion}-{task}-{length}"
        folder.mkdir(parents=True)
        written = {"criterion": criterion, "targets": fitted, "sparsity": {f"{t:g}": t for t in targets}}
        (folder / "calibration.json").write_text(json.dumps(written))
        nodes.append(FakeNode(folder, {"criterion": criterion, "benchmark": "ruler", "length": length, "task": task,
                                       "seed": 42}))  # fmt: skip
    return nodes


def experiment(root, dense, lengths=(1024,), samples=6, criteria=CRITERIA, **sizes):
    """All nodes of an experiment: `dense` gives each task's dense score."""
    grid = [(task, length) for length in lengths for task in dense]
    evaluations = [evaluation(root, task, dense[task], samples, length, criteria) for task, length in grid]
    oracles = [oracle(root, task, samples, length, **sizes) for task, length in grid]
    shape = {key: sizes[key] for key in ("layers", "heads") if key in sizes}
    calibrations = []
    for name in (name for name in criteria if name not in ("dense", "local")):
        tasks = list(dense) if criteria[name]["kind"] == "static" else (None,)
        calibrations += [node for length in lengths for node in calibration(root, name, tasks, length, **shape)]
    return Tables(evaluations, oracles, calibrations)
