"""Tables of one experiment: evaluation rows as one frame, oracle tables prompt by prompt, calibrated numbers.

Oracle tables may hold tens of millions of rows: one file is in memory at a time, and a figure keeps only what it
counts. Shapes: L full-attention layers, H query heads.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from headscope.errors import ConfigError
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Node, Setting, setting_of
from headscope.figures.common.oracle_rows import Block, OracleRows
from headscope.heads.calibration.rules import RULES

TAU_WITHOUT_ORACLE = 0.9


@dataclass(frozen=True)
class Tables:
    """Finished nodes of one experiment; their files are read when a figure needs them."""

    evaluations: Sequence[Node]
    oracles: Sequence[Node]
    calibrations: Sequence[Node] = ()
    margins: Sequence[Node] = ()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """All evaluation rows; groups of samples that a benchmark reports apart count as benchmarks of their own.

        Raises:
            ConfigError: there is no evaluation node.
        """
        if not self.evaluations:
            raise ConfigError("this figure needs evaluation nodes and was given none")
        parts = [pd.read_parquet(node.folder / "rows.parquet") for node in self.evaluations]
        rows = pd.concat(parts, ignore_index=True)
        return rows.assign(benchmark=(rows["benchmark"] + " " + rows["bucket"]).str.strip())

    @property
    def settings(self) -> list[Setting]:
        """Benchmarks and lengths of the oracle tables, ascending.

        Raises:
            ConfigError: there is no oracle node.
        """
        if not self.oracles:
            raise ConfigError("this figure needs oracle nodes and was given none")
        return sorted({setting_of(node) for node in self.oracles})

    @property
    def estimators(self) -> list[str]:
        """Names of the estimators that every oracle node has a table of."""
        names = [set(node.spec.get("estimators") or {}) for node in self.oracles]
        return sorted(set.intersection(*names)) if names else []

    def needed_estimators(self) -> list[str]:
        """Return `estimators`, at least one.

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

    def criterion_of(self, estimator: str) -> str:
        """Return the evaluated criterion that decides by this estimator; the estimator's own name if there is none."""
        users = [name for name, spec in self.criteria.items() if (spec.get("estimator") or {}).get("name") == estimator]
        return users[0] if users else estimator

    def heads(self, setting: Setting) -> tuple[list[int], int]:
        """Return the indices of the full-attention layers and the number of query heads."""
        path = self._oracle_nodes(setting)[0].folder / "masses.parquet"
        layers = np.unique(pq.read_table(path, columns=["layer"])["layer"].to_numpy())
        first = next(pq.ParquetFile(path).iter_batches(batch_size=1, columns=["local"]))
        return [int(layer) for layer in layers], len(first["local"][0])

    def blocks(self, setting: Setting, estimators: Sequence[str] = ()) -> Iterator[Block]:
        """Yield the evaluation prompts of one setting, one oracle file in memory at a time.

        Raises:
            ConfigError: no query has a bulk, so there is nothing to draw.
        """
        empty = True
        for node in self._oracle_nodes(setting):
            for block in OracleRows.read(node).blocks(estimators):
                empty = False
                yield block
        if empty:
            raise ConfigError(f"{setting}: the window covers all keys: choose a longer prompt or a smaller window")

    def quantiles(self, setting: Setting) -> pa.Table:
        """Read the bulk-score quantiles of all oracle nodes of a setting."""
        return pa.concat_tables(
            pq.read_table(node.folder / "score_quantiles.parquet") for node in self._oracle_nodes(setting)
        )

    def calibrated(
        self, criterion: str, setting: Setting, task: str | None = None, seed: int | None = None
    ) -> dict[str, Any] | None:
        """Read `calibration.json` of a criterion in a setting; of the evaluated task, where each task has its own.

        Without `seed` the first seed's is read.
        """
        sources = {setting} | {
            Setting(**node.spec["calibrating"]) for node in self.evaluations if setting_of(node) == setting
        }
        # What was fitted in the setting itself comes first: a static ranking of another length may have the same task.
        for node in sorted(self.calibrations, key=lambda node: setting_of(node) != setting):
            fits = node.spec["criterion"] == criterion and setting_of(node) in sources
            if fits and seed in (None, node.spec.get("seed")) and node.spec.get("task") in (None, task):
                calibration: dict[str, Any] = json.loads((node.folder / "calibration.json").read_text(encoding="utf-8"))
                return calibration
        return None

    def oracle_threshold(self, setting: Setting, target: float) -> tuple[float, str]:
        """Return the log-odds at and above which the oracle calls a head local, and say where it comes from.

        The calibrated threshold whose target is nearest is taken, of the first seed where there are several: one
        threshold labels all seeds' pairs. Without a calibrated oracle, tau = .9.
        """
        calibration = self.calibrated("oracle", setting)
        if calibration is None:
            return float(np.log(TAU_WITHOUT_ORACLE / (1 - TAU_WITHOUT_ORACLE))), f"tau = {TAU_WITHOUT_ORACLE}"
        chosen = min(calibration["targets"], key=lambda name: abs(float(name) - target))
        threshold = float(calibration["targets"][chosen]["threshold"])
        rule = next(words for name, words in RULES.items() if name in calibration)
        return threshold, f"tau = {1 / (1 + np.exp(-threshold)):.3f}, calibrated for {rule} {chosen}"

    def _oracle_nodes(self, setting: Setting) -> list[Node]:
        return [node for node in self.oracles if setting_of(node) == setting]


def targets_calling_long(calibration: Mapping[str, Any]) -> Floats:
    """Count the targets at which a static criterion calls each head long, [L, H]: its ranking as far as it decides."""
    return np.asarray(np.sum([target["long"] for target in calibration["targets"].values()], axis=0, dtype=np.float64))
