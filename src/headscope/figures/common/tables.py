"""The tables behind figures: evaluation rows as one frame, oracle tables prompt by prompt, calibrated numbers.

Shapes: R rows (layer, query) of one prompt, H query heads, L full-attention layers. Oracle tables may hold tens of
millions of rows: one file is in memory at a time, and a figure keeps only what it counts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headscope.errors import ConfigError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
TAU_WITHOUT_ORACLE = 0.9


class Setting(NamedTuple):
    """What is averaged over and drawn together: one benchmark at one length."""

    benchmark: str
    length: int

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.length:,} tokens"


class Node(Protocol):
    """A finished node: its folder and the slice that made it."""

    @property
    def folder(self) -> Path:
        """Where its files are."""

    @property
    def spec(self) -> dict[str, Any]:
        """Its slice of the configuration."""


@dataclass(frozen=True)
class Block:
    """Exact masses and estimates of one evaluation prompt.

    Attributes:
        task: the benchmark's task.
        layer: position of each row's layer among the full-attention layers, [R].
        local: log mass of the window, [R, H].
        bulk: exact log mass of the bulk, [R, H].
        estimates: predicted log mass of the bulk by estimator, each [R, H].
    """

    task: str
    layer: Integers
    local: Floats
    bulk: Floats
    estimates: dict[str, Floats]

    @property
    def heads(self) -> Integers:
        """Each pair's head, numbered over all layers, [R, H]."""
        width = self.local.shape[1]
        return np.asarray(self.layer[:, None] * width + np.arange(width))


@dataclass(frozen=True)
class Tables:
    """Finished nodes of one experiment; files are read when asked for."""

    evaluations: Sequence[Node]
    oracles: Sequence[Node]
    calibrations: Sequence[Node] = ()
    margins: Sequence[Node] = ()
    diagnostics: Sequence[Node] = ()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All evaluation rows; groups of samples that a benchmark reports apart count as benchmarks of their own.

        Raises:
            ConfigError: the figure was given no evaluation node.
        """
        if not self.evaluations:
            raise ConfigError("this figure needs evaluation nodes and was given none")
        rows = pd.concat(
            [pd.read_parquet(node.folder / "rows.parquet") for node in self.evaluations], ignore_index=True
        )
        return rows.assign(benchmark=(rows["benchmark"] + " " + rows["bucket"]).str.strip())

    @property
    def settings(self) -> list[Setting]:
        """Benchmarks and lengths of the oracle tables, ascending.

        Raises:
            ConfigError: the figure was given no oracle node.
        """
        if not self.oracles:
            raise ConfigError("this figure needs oracle nodes and was given none")
        return sorted({_setting(node) for node in self.oracles})

    @property
    def estimators(self) -> list[str]:
        """Names of the estimators that every oracle node has a table of."""
        names = [set(node.spec.get("estimators") or {}) for node in self.oracles]
        return sorted(set.intersection(*names)) if names else []

    def needed_estimators(self) -> list[str]:
        """`estimators`, at least one.

        Raises:
            ConfigError: the oracle nodes have none in common.
        """
        if not self.estimators:
            raise ConfigError("this figure needs an estimator's table: add a criterion such as qada, or leave it out")
        return self.estimators

    @property
    def criteria(self) -> dict[str, dict[str, Any]]:
        """Specs of the evaluated criteria by name."""
        return {name: spec for node in self.evaluations for name, spec in node.spec["criteria"].items()}

    @property
    def scope(self) -> str:
        """Where the criteria decided: "question", or "prompt" (slices then have a chunk)."""
        return "prompt" if any("chunk" in node.spec for node in self.evaluations) else "question"

    def criterion_of(self, estimator: str) -> str | None:
        """Name of the criterion that decides by this estimator, if one is evaluated."""
        users = [name for name, spec in self.criteria.items() if (spec.get("estimator") or {}).get("name") == estimator]
        return users[0] if users else None

    def heads(self, setting: Setting) -> tuple[list[int], int]:
        """Indices of the full-attention layers and the number of query heads."""
        path = self._oracle_nodes(setting)[0].folder / "masses.parquet"
        layers = np.unique(pq.read_table(path, columns=["layer"])["layer"].to_numpy())
        first = next(pq.ParquetFile(path).iter_batches(batch_size=1, columns=["local"]))
        return [int(layer) for layer in layers], len(first["local"][0])

    def blocks(self, setting: Setting, estimators: Sequence[str] = ()) -> Iterator[Block]:
        """Yield the evaluation prompts of one setting, one oracle file in memory at a time.

        Raises:
            ConfigError: no query has a bulk, so there is nothing to draw.
        """
        prompts = 0
        for node in self._oracle_nodes(setting):
            masses = pq.read_table(
                node.folder / "masses.parquet", columns=["prompt", "split", "layer", "local", "bulk"]
            )
            kept = pc.equal(masses["split"], "evaluation")
            masses = masses.filter(kept)
            if not len(masses):
                continue
            guesses = {name: _bulk(node.folder / "estimates" / f"{name}.parquet", kept) for name in estimators}
            exact, local = matrix(masses["bulk"]), matrix(masses["local"])
            layer = np.unique(masses["layer"].to_numpy(), return_inverse=True)[1]
            for rows in _rows_of_prompts(masses["prompt"]):
                prompts += 1
                of_prompt = {name: guess[rows].astype(np.float64) for name, guess in guesses.items()}
                pair = local[rows].astype(np.float64), exact[rows].astype(np.float64)
                yield Block(node.spec["task"], layer[rows], *pair, of_prompt)
        if not prompts:
            raise ConfigError(f"{setting}: the window covers all keys: choose a longer prompt or a smaller window")

    def quantiles(self, setting: Setting) -> Iterator[pa.Table]:
        """Yield the bulk-score quantiles of one oracle node after the other."""
        for node in self._oracle_nodes(setting):
            yield pq.read_table(node.folder / "score_quantiles.parquet")

    def calibrated(
        self, criterion: str, setting: Setting, task: str | None = None, seed: int | None = None
    ) -> dict[str, Any] | None:
        """Read `calibration.json` of a criterion in a setting (for the evaluated task, where it has one of its own).

        With several seeds and none asked for it is the first seed's.
        """
        fitted = {setting} | {
            Setting(**node.spec["calibrating"]) for node in self.evaluations if _setting(node) == setting
        }
        # What was fitted in the setting itself comes first: a static ranking of another length may have the same task.
        for node in sorted(self.calibrations, key=lambda node: _setting(node) != setting):
            found = node.spec["criterion"] == criterion and _setting(node) in fitted
            found = found and seed in (None, node.spec.get("seed"))
            if found and node.spec.get("task") in (None, task):
                calibration: dict[str, Any] = json.loads((node.folder / "calibration.json").read_text(encoding="utf-8"))
                return calibration
        return None

    def oracle_threshold(self, setting: Setting, target: float) -> tuple[float, str]:
        """Log-odds at and above which the oracle calls a head local, and in words where it comes from.

        The calibrated threshold that is nearest in sparsity is taken, of the first seed where there are several: one
        threshold labels all seeds' pairs. Without a calibrated oracle, tau = .9.
        """
        calibration = self.calibrated("oracle", setting)
        if calibration is None:
            return float(np.log(TAU_WITHOUT_ORACLE / (1 - TAU_WITHOUT_ORACLE))), f"tau = {TAU_WITHOUT_ORACLE}"
        chosen = min(calibration["targets"], key=lambda name: abs(float(name) - target))
        threshold = float(calibration["targets"][chosen]["threshold"])
        return threshold, f"tau = {1 / (1 + np.exp(-threshold)):.3f}, calibrated for sparsity {chosen}"

    def _oracle_nodes(self, setting: Setting) -> list[Node]:
        return [node for node in self.oracles if _setting(node) == setting]


def _setting(node: Node) -> Setting:
    return Setting(node.spec["benchmark"], node.spec["length"])


def matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Column of equally long lists as one array, [rows, list length]."""
    values = pc.list_flatten(column).to_numpy()
    return np.asarray(values).reshape(len(column), -1)


def _bulk(path: Path, kept: pa.ChunkedArray) -> NDArray[np.float32]:
    return matrix(pq.read_table(path, columns=["bulk"]).filter(kept)["bulk"])


def _rows_of_prompts(prompts: pa.ChunkedArray) -> list[Integers]:
    """Row numbers of each prompt, in order of first appearance."""
    codes = np.asarray(pc.dictionary_encode(prompts).combine_chunks().indices)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1) if len(order) else []
