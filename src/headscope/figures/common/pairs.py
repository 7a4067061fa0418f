"""Pairs (query, head) of the evaluation prompts of one length: the truth, and one criterion's scores at a time.

Shapes: R rows (prompt, layer, query) of one oracle node, H query heads, N pairs of all nodes. All masses are float32.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

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


class Recorded(NamedTuple):
    """Margins of a criterion and the exact log norms of the output that calling a head local loses, [R, H] each."""

    margin: Array
    lost: Array


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

    def recorded(self, criterion: str) -> Recorded:
        """Read the margins table of a criterion in the order of the rows.

        A row that was left out has no bulk beyond the criterion's own window: it is local and loses nothing.
        """
        assert self.margins is not None
        chosen = [("criterion", "==", criterion), ("split", "==", "evaluation")]
        path = self.margins.folder / "margins.parquet"
        table = pq.read_table(path, columns=[*KEYS, "margin", "lost"], filters=chosen, read_dictionary=["prompt"])
        place = self._rows.get_indexer(pd.Index(self._numbers(table.select(KEYS).to_pandas())))
        values = []
        for column, absent in (("margin", np.inf), ("lost", -np.inf)):
            values.append(np.full(self.oracle.local.shape, absent, dtype=np.float32))
            values[-1][place[place >= 0]] = matrix(table[column])[place >= 0]
        return Recorded(*values)

    @cached_property
    def _rows(self) -> Any:
        return pd.Index(self._numbers(self.oracle.keys))

    @cached_property
    def _prompts(self) -> Any:
        return pd.Index(self.oracle.keys["prompt"].unique())

    def _numbers(self, keys: pd.DataFrame) -> Array:
        """Return one number a row for its prompt, layer (16 bits) and query (32 bits); negative for another prompt."""
        prompt = self._prompts.get_indexer(pd.Index(keys["prompt"])).astype(np.int64)
        layer, query = (keys[name].to_numpy(np.int64) for name in ("layer", "query"))
        return np.asarray((prompt << 48) + (layer << 32) + query)


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
            return _flat(1 / (1 + np.exp(task.oracle.local - task.oracle.bulk)) for task in self.tasks)

    @cached_property
    def answer(self) -> Array:
        """Whether the query is a token of the answer, [N]."""
        return np.repeat(_flat(task.oracle.answer for task in self.tasks), self.tasks[0].oracle.local.shape[1])

    @cached_property
    def heads(self) -> Array:
        """Each pair's head, numbered over all layers, [N]; 16 bits, which sort fastest."""
        width = self.tasks[0].oracle.local.shape[1]
        layer = _flat(task.oracle.keys["layer"].to_numpy(np.uint16) for task in self.tasks)
        return np.asarray(np.add.outer(layer * width, np.arange(width, dtype=np.uint16))).ravel()

    @cached_property
    def prompts(self) -> Array:
        """Number of each pair's prompt, [N]; a prompt of the same name in another task or seed is another prompt."""
        numbers, before = [], 0
        for task in self.tasks:
            of_task, names = pd.factorize(task.oracle.keys["prompt"])
            numbers.append(before + of_task)
            before += len(names)
        return np.repeat(_flat(numbers), self.tasks[0].oracle.local.shape[1])

    def judged(self, criterion: str) -> tuple[Array, Array | None]:
        """Return how strongly a criterion calls each pair long, and what calling it local loses, [N] each.

        The first is minus its margin as its threshold sees it; a margin that is NaN makes the criterion read the bulk,
        so it scores highest. The second is the exact log norm of the lost output, None where it was not recorded.
        """
        recorded = [task.recorded(criterion) if task.records(criterion) else None for task in self.tasks]
        margins = (self._margin(task, criterion, values) for task, values in zip(self.tasks, recorded, strict=True))
        scores = _flat(margins)
        np.negative(scores, out=scores)
        np.copyto(scores, np.inf, where=np.isnan(scores))
        lost = [values.lost for values in recorded if values is not None]
        return scores, _flat(lost) if len(lost) == len(recorded) else None

    def _margin(self, task: TaskRows, criterion: str, recorded: Recorded | None) -> Array:
        spec, rows = self.tables.criteria[criterion], task.oracle
        node = rows.node
        calibration = self.tables.calibrated(criterion, setting_of(node), node.spec["task"], node.spec["seed"])
        assert calibration is not None, f"{criterion} was evaluated, so it was calibrated"
        layer = rows.keys["layer"].to_numpy()
        first = next(iter(calibration["targets"].values()))
        if spec["kind"] == "static":
            ranking = targets_calling_long(calibration).astype(np.float32)
            return np.asarray(-ranking[np.searchsorted(first["layers"], layer)])
        if recorded is None:
            margin = rows.local - (rows.bulk if spec["estimator"] is None else rows.estimate(spec["estimator"]["name"]))
        else:
            margin = recorded.margin
        return MarginMap.of(first).apply_rows(layer, margin).astype(np.float32)


def _flat(parts: Iterable[Array]) -> Array:
    return np.concatenate([part.ravel() for part in parts])


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
