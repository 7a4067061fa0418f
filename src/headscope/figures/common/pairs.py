"""Pairs (query, head) of the evaluation prompts of one length: the truth, and one criterion's scores at a time.

Shapes: R rows (prompt, layer, query) of one oracle node, H query heads, N pairs of all nodes. All masses are float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headscope.errors import ConfigError
from headscope.figures.common.node import Node, setting_of
from headscope.figures.common.oracle_rows import KEYS, OracleRows, matrix
from headscope.figures.common.tables import Tables, targets_calling_long
from headscope.heads.calibration.maps import MarginMap

Array = NDArray[Any]
PROMPTS = ("benchmark", "length", "task", "seed")
"""Options that two nodes of the same prompts share."""


@dataclass(frozen=True)
class TaskRows:
    """One task at one length with one seed.

    Attributes:
        oracle: exact masses.
        margins: the node with recorded margins of the same prompts, if there is one.
    """

    oracle: OracleRows
    margins: Node | None

    def records(self, criterion: str) -> bool:
        """Return True if margins of the criterion were recorded."""
        return self.margins is not None and criterion in self.margins.spec["criteria"]

    def recorded(self, criterion: str, column: str, absent: float) -> Array:
        """Return a column of the margins table in the order of the rows, [R, H]; `absent` where a row has none."""
        assert self.margins is not None
        chosen = [("criterion", "==", criterion), ("split", "==", "evaluation")]
        table = pq.read_table(self.margins.folder / "margins.parquet", columns=[*KEYS, column], filters=chosen)
        recorded = pd.MultiIndex.from_frame(table.select(KEYS).to_pandas())
        place = recorded.get_indexer(pd.MultiIndex.from_frame(self.oracle.keys))
        values = np.full(self.oracle.local.shape, absent, dtype=np.float32)
        values[place >= 0] = matrix(table[column])[place[place >= 0]]
        return values


@dataclass(frozen=True)
class Pairs:
    """All evaluation pairs of one length, flat, in the order of the nodes; large: one criterion's scores at a time.

    Attributes:
        tables: where calibrations are.
        tasks: rows of each task and seed.
    """

    tables: Tables
    tasks: Sequence[TaskRows]

    @cached_property
    def bulk_share(self) -> Array:
        """Exact bulk share under the plain window, [N]."""
        with np.errstate(over="ignore"):
            return self._flat(lambda task: 1 / (1 + np.exp(task.oracle.local - task.oracle.bulk)))

    @cached_property
    def answer(self) -> Array:
        """Whether the query is a token of the answer, [N]."""
        return self._flat(lambda task: np.repeat(task.oracle.answer[:, None], task.oracle.local.shape[1], 1))

    @cached_property
    def heads(self) -> Array:
        """Each pair's head, numbered over all layers, [N]."""
        width = self.tasks[0].oracle.local.shape[1]
        head = np.arange(width, dtype=np.int32)
        return self._flat(lambda task: np.add.outer(task.oracle.keys["layer"].to_numpy(np.int32) * width, head))

    @cached_property
    def prompts(self) -> Array:
        """Number of each pair's prompt, [N]; a prompt of the same name in another task or seed is another prompt."""
        names = pd.concat([task.oracle.keys["prompt"] + f" {place}" for place, task in enumerate(self.tasks)])
        return np.repeat(pd.factorize(names)[0], self.tasks[0].oracle.local.shape[1])

    def scores(self, criterion: str) -> Array:
        """Return how strongly a criterion calls each pair long, [N]: minus its margin as its threshold sees it.

        A margin that is NaN makes the criterion read the bulk, so it scores highest.
        """
        return np.nan_to_num(self._flat(lambda task: -self._margin(task, criterion)), nan=np.inf, posinf=np.inf)

    def lost(self, criterion: str) -> Array | None:
        """Return the exact log norm of the output lost by calling each pair local, [N]; None where not recorded."""
        if not all(task.records(criterion) for task in self.tasks):
            return None
        return self._flat(lambda task: task.recorded(criterion, "lost", -np.inf))

    def _flat(self, of_task: Callable[[TaskRows], Array]) -> Array:
        return np.concatenate([of_task(task).ravel() for task in self.tasks])

    def _margin(self, task: TaskRows, criterion: str) -> Array:
        spec, rows = self.tables.criteria[criterion], task.oracle
        node = rows.node
        calibration = self.tables.calibrated(criterion, setting_of(node), node.spec["task"], node.spec["seed"])
        assert calibration is not None, f"{criterion} was evaluated, so it was calibrated"
        layer = rows.keys["layer"].to_numpy()
        first = next(iter(calibration["targets"].values()))
        if spec["kind"] == "static":
            ranking = targets_calling_long(calibration).astype(np.float32)
            return np.asarray(-ranking[np.searchsorted(first["layers"], layer)])
        if task.records(criterion):
            # A row that was left out has no bulk beyond the criterion's own window: it is local.
            margin = task.recorded(criterion, "margin", np.inf)
        else:
            margin = rows.local - (rows.bulk if spec["estimator"] is None else rows.estimate(spec["estimator"]["name"]))
        return MarginMap.of(first).apply_rows(layer, margin).astype(np.float32)


def read(tables: Tables, length: int) -> Pairs:
    """Read the masses of a length; if margins are recorded at all, only of tasks that have them.

    Raises:
        ConfigError: no evaluation prompt of this length has a query with a bulk.
    """
    nodes = [node for node in tables.oracles if node.spec["length"] == length]
    tasks = [TaskRows(OracleRows.read(node), _margins_of(tables, node)) for node in nodes]
    tasks = [task for task in tasks if len(task.oracle.keys) and (task.margins or not tables.margins)]
    if not tasks:
        raise ConfigError(f"{length:,} tokens: no pair to judge criteria by: choose longer prompts or a smaller window")
    return Pairs(tables, tasks)


def _margins_of(tables: Tables, node: Node) -> Node | None:
    same = [other for other in tables.margins if all(other.spec[name] == node.spec[name] for name in PROMPTS)]
    return same[0] if same else None
