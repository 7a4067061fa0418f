"""Stage `oracle`: exact and estimated log masses on the dense answers, from one forward pass a prompt."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headscope.heads import registry
from headscope.heads.window import Window
from headscope.lab.masses import LayerMasses, record_masses
from headscope.lab.scope import recorded_positions
from headscope.models.loading import LoadedModel
from headscope.pipeline.plan.code import code_digest
from headscope.pipeline.progress import progress
from headscope.pipeline.stages.inputs import (
    Prompt,
    build_estimators,
    estimator_identity,
    fed_tokens,
    load_answers,
    load_model,
    load_moments,
    load_prompts,
    open_cells,
)
from headscope.pipeline.store.files import digest
from headscope.pipeline.store.layer_rows import as_lists, as_rows, writer
from headscope.pipeline.store.parents import Parents
from headscope.pipeline.store.tables import PromptMasses, estimates_table

Arrays = dict[str, NDArray[Any]]
SEGMENTS = ("context", "question", "prefix", "answer")
QUANTILES = np.arange(1, 100) / 100


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write masses.parquet, estimates/<name>.parquet and score_quantiles.parquet (first evaluation prompt)."""
    loaded = load_model(spec, parents)
    oracle = _Oracle(spec, out, parents, loaded)
    answers = load_answers(parents)
    with ExitStack() as writers:
        tables = _Tables(out, writers)
        for prompt in progress(load_prompts(parents, loaded), f"oracle {spec['task']} {spec['length']}"):
            masses, estimates = oracle.cells_of(prompt, fed_tokens(answers[prompt.id]))
            tables.add(prompt, masses, estimates)


class _Oracle:
    """Finds the cells of a prompt or computes those that are missing, all in one forward pass."""

    def __init__(self, spec: Mapping[str, Any], out: Path, parents: Parents, loaded: LoadedModel):
        self.loaded, self.window, self.chunk = loaded, Window(**spec["window"]), spec.get("chunk")
        moments = load_moments(parents)
        self.estimators = build_estimators(spec["estimators"].values(), moments)
        self.cells = open_cells("oracle", spec, loaded, out, "headscope.lab.masses")
        self.identities = {
            name: {
                **estimator_identity(estimator, moments),
                "code": code_digest(registry.module("estimators", estimator["kind"])),
            }
            for name, estimator in spec["estimators"].items()
        }

    def cells_of(self, prompt: Prompt, fed: list[int]) -> tuple[Arrays, dict[str, Arrays]]:
        """Return the exact masses and each estimator's, on a prompt and the tokens fed of its dense answer."""
        masses_key, scores_key = (f"{name}-{digest(fed)}" for name in ("masses", "scores"))
        keys = {name: f"estimate-{digest([fed, identity])}" for name, identity in self.identities.items()}
        wanted = {masses_key, *keys.values(), *([scores_key] if _is_shown(prompt) else [])}
        cells = self.cells.arrays(prompt.id, wanted)
        if missing := wanted - cells.keys():
            ids, boundary = prompt.encoded.ids, prompt.encoded.boundary
            estimators = [self.estimators[name] for name, key in keys.items() if key in missing]
            layers = record_masses(self.loaded.model, ids, fed, boundary, self.window, estimators, self.chunk)
            position = recorded_positions(self.window, boundary, len(ids) + len(fed), self.chunk)
            arrays: dict[str, Callable[[], Arrays]] = {
                masses_key: partial(_masses_arrays, layers, position.numpy()),
                scores_key: partial(_scores_arrays, layers),
                **{key: partial(_estimates_arrays, layers, name) for name, key in keys.items()},
            }
            for key in sorted(missing):
                cells[key] = arrays[key]()
                self.cells.add_arrays(prompt.id, key, cells[key])
        masses = cells[masses_key] | cells.get(scores_key, {})
        return masses, {name: cells[key] for name, key in keys.items()}


def _is_shown(prompt: Prompt) -> bool:
    """Return True for the prompt whose distribution of scores a figure shows."""
    return bool(prompt.row["split"] == "evaluation" and prompt.row["index"] == 0)


def _masses_arrays(layers: Mapping[int, LayerMasses], position: NDArray[Any]) -> Arrays:
    """Stack the layers' masses, [L, H, Q], and the positions, [Q]."""
    return {
        "layers": np.array(list(layers), dtype=np.int16),
        "local": np.stack([_numpy(layer.masses.local[0]) for layer in layers.values()]),
        "bulk": np.stack([_numpy(layer.masses.bulk[0]) for layer in layers.values()]),
        "bulk_size": next(iter(layers.values())).masses.bulk_size.cpu().numpy().astype(np.int32),
        "position": position.astype(np.int32),
    }


def _estimates_arrays(layers: Mapping[int, LayerMasses], name: str) -> Arrays:
    """Stack an estimator's bulk log masses, [L, H, Q]."""
    return {"bulk": np.stack([_numpy(layer.estimates[name]) for layer in layers.values()])}


def _scores_arrays(layers: Mapping[int, LayerMasses]) -> Arrays:
    """Describe the distribution of one query's scores, [L, H], by its quantiles, [L, H, 99], too."""
    scores = [_numpy(layer.scores) for layer in layers.values()]
    count = scores[0].shape[1]
    scores = scores if count else [np.zeros((0, 1), np.float32)] * len(scores)  # without a bulk, no head has a shape
    return {
        "score_mean": np.stack([of_layer.mean(1) for of_layer in scores]),
        "score_std": np.stack([of_layer.std(1) for of_layer in scores]),
        "score_quantiles": np.stack([np.quantile(of_layer, QUANTILES, axis=1).T for of_layer in scores]),
        "score_count": np.array([count]),
    }


def _numpy(tensor: Any) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


class _Tables:
    """Streams the prompts into the node's Parquet files, one row group a prompt."""

    def __init__(self, out: Path, closing: ExitStack):
        self.out, self.closing, self.writers = out, closing, dict[str, pq.ParquetWriter]()
        (out / "estimates").mkdir()

    def add(self, prompt: Prompt, masses: Arrays, estimates: Mapping[str, Arrays]) -> None:
        """Append one prompt's rows to every table."""
        encoded = prompt.encoded
        ends = [encoded.boundary, encoded.prefix_start, len(encoded.ids)]
        segments = np.array(SEGMENTS, dtype=object)[np.searchsorted(ends, masses["position"], side="right")]
        rows = PromptMasses.of(prompt.id, prompt.row["split"], segments, masses)
        self._write("masses", rows.table())
        has_bulk = masses["bulk_size"] > 0
        for name, arrays in estimates.items():
            self._write(f"estimates/{name}", estimates_table(rows, as_rows(arrays["bulk"][:, :, has_bulk])))
        if _is_shown(prompt):
            self._write("score_quantiles", _quantiles_table(prompt, masses))

    def _write(self, name: str, table: pa.Table) -> None:
        if name not in self.writers:
            opened = writer(self.out / f"{name}.parquet", table.schema)
            self.writers[name] = self.closing.enter_context(opened)
        self.writers[name].write_table(table)


def _quantiles_table(prompt: Prompt, masses: Arrays) -> pa.Table:
    """Return the distribution of the raw bulk scores of the last prompt token, one row a (layer, head)."""
    layers, heads = masses["score_mean"].shape
    return pa.table(
        {
            "prompt": pa.array([prompt.id] * layers * heads, pa.string()),
            "layer": np.repeat(masses["layers"], heads),
            "head": np.tile(np.arange(heads, dtype=np.int16), layers),
            "query": np.full(layers * heads, len(prompt.encoded.ids) - 1, np.int32),
            "mean": masses["score_mean"].ravel(),
            "std": masses["score_std"].ravel(),
            "quantiles": as_lists(masses["score_quantiles"].reshape(layers * heads, len(QUANTILES))),
            "n": np.full(layers * heads, masses["score_count"][0], np.int32),
        }
    )
