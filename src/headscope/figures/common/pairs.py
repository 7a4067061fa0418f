"""Pairs (query, head) of the evaluation prompts of one length: the truth, and one criterion's scores at a time.

Shapes: R rows (prompt, layer, query) of one oracle node, H query heads, N pairs of all nodes. All masses are float32.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from headscope.errors import ConfigError
from headscope.figures.common.tables import Node, Setting, Tables, matrix
from headscope.heads.calibration.maps import MarginMap

Array = NDArray[Any]
KEYS = ["prompt", "layer", "query"]
DRAWN = ("benchmark", "length", "task", "seed")


@dataclass(frozen=True)
class Drawn:
    """One task at one length with one seed.

    Attributes:
        node: the oracle node.
        margins: the node with recorded margins of the same prompts, if there is one.
        keys: prompt, layer and query of each row, [R].
        kept: rows of the node's files that belong to evaluation prompts.
        local: window log mass, [R, H].
        bulk: bulk log mass, [R, H].
        answer: whether the query is a token of the answer, [R].
    """

    node: Node
    margins: Node | None
    keys: pd.DataFrame
    kept: Any
    local: Array
    bulk: Array
    answer: Array

    def estimate(self, estimator: str) -> Array:
        """Predicted bulk log mass, [R, H]."""
        table = pq.read_table(self.node.folder / "estimates" / f"{estimator}.parquet", columns=["bulk"])
        return matrix(table.filter(self.kept)["bulk"])

    def recorded(self, criterion: str, column: str, absent: float) -> Array:
        """A column of the margins table in the order of the rows, [R, H]; `absent` where a row has none."""
        assert self.margins is not None
        chosen = [("criterion", "==", criterion), ("split", "==", "evaluation")]
        table = pq.read_table(self.margins.folder / "margins.parquet", columns=[*KEYS, column], filters=chosen)
        places = pd.MultiIndex.from_frame(table.select(KEYS).to_pandas())
        place = places.get_indexer(pd.MultiIndex.from_frame(self.keys))
        found = np.full(self.local.shape, absent, dtype=np.float32)
        found[place >= 0] = matrix(table[column])[place[place >= 0]]
        return found


def read(tables: Tables, length: int) -> "Pairs":
    """Read the masses of a length; where margins are recorded at all, only of tasks that have them.

    Raises:
        ConfigError: no evaluation prompt of this length has a query with a bulk.
    """
    found = [_drawn(node, _partner(tables, node)) for node in tables.oracles if node.spec["length"] == length]
    drawn = [one for one in found if len(one.keys) and (one.margins or not tables.margins)]
    if not drawn:
        raise ConfigError(f"{length:,} tokens: no pair to judge criteria by: choose longer prompts or a smaller window")
    return Pairs(tables, drawn)


def _partner(tables: Tables, node: Node) -> Node | None:
    same = [other for other in tables.margins if all(other.spec[name] == node.spec[name] for name in DRAWN)]
    return same[0] if same else None


def _drawn(node: Node, margins: Node | None) -> Drawn:
    masses = pq.read_table(node.folder / "masses.parquet", columns=[*KEYS, "split", "segment", "local", "bulk"])
    kept = pc.equal(masses["split"], "evaluation")
    masses = masses.filter(kept)
    local, bulk = (matrix(masses[name]) if len(masses) else np.zeros((0, 0)) for name in ("local", "bulk"))
    answer = masses["segment"].to_numpy() == "answer"
    return Drawn(node, margins, masses.select(KEYS).to_pandas(), kept, local, bulk, answer)


@dataclass(frozen=True)
class Pairs:
    """All evaluation pairs of one length, flat, in the order of the nodes; large: one criterion's scores at a time.

    Attributes:
        tables: where calibrations are.
        drawn: nodes with their rows.
    """

    tables: Tables
    drawn: Sequence[Drawn]

    @cached_property
    def bulk_share(self) -> Array:
        """Exact bulk share under the plain window, [N]."""
        with np.errstate(over="ignore"):
            return self._flat(lambda one: 1 / (1 + np.exp(one.local - one.bulk)))

    @cached_property
    def answer(self) -> Array:
        """Whether the query is a token of the answer, [N]."""
        return self._flat(lambda one: np.repeat(one.answer[:, None], one.local.shape[1], 1))

    @cached_property
    def heads(self) -> Array:
        """Each pair's head, numbered over all layers, [N]."""
        return self._flat(lambda one: np.add.outer(one.keys["layer"].to_numpy(np.int32) * one.local.shape[1],
                                                   np.arange(one.local.shape[1], dtype=np.int32)))  # fmt: skip

    @cached_property
    def prompts(self) -> Array:
        """Number of each pair's prompt, [N]; one prompt drawn by two seeds is two."""
        words = pd.concat([one.keys["prompt"] + f" {place}" for place, one in enumerate(self.drawn)])
        return np.repeat(pd.factorize(words)[0], self.drawn[0].local.shape[1])

    def scores(self, criterion: str) -> Array:
        """How long-context a criterion finds each pair, [N]: minus its margin as its threshold sees it.

        A margin that is no number reads the bulk, as the criterion does.
        """
        return np.nan_to_num(self._flat(lambda one: -self._margin(one, criterion)), nan=np.inf, posinf=np.inf)

    def lost(self, criterion: str) -> Array | None:
        """Exact log norm of the output that calling a pair local loses, [N]; None where it was not recorded."""
        if not all(_has(one, criterion) for one in self.drawn):
            return None
        return self._flat(lambda one: one.recorded(criterion, "lost", -np.inf))

    def _flat(self, of: Callable[[Drawn], Array]) -> Array:
        return np.concatenate([of(one).ravel() for one in self.drawn])

    def _margin(self, one: Drawn, criterion: str) -> Array:
        spec = self.tables.criteria[criterion]
        benchmark, length, task, seed = (one.node.spec[name] for name in DRAWN)
        calibration = self.tables.calibrated(criterion, Setting(benchmark, length), task, seed)
        assert calibration is not None, f"{criterion} was evaluated, so it was calibrated"
        layer = one.keys["layer"].to_numpy()
        if spec["kind"] == "static":
            return -_called_long(calibration, layer)
        if _has(one, criterion):
            # A row that was left out has no bulk beyond the criterion's own window: it is local.
            margin = one.recorded(criterion, "margin", np.inf)
        else:
            margin = one.local - (one.bulk if spec["estimator"] is None else one.estimate(spec["estimator"]["name"]))
        return _per_head(next(iter(calibration["targets"].values())), layer, margin)


def _has(one: Drawn, criterion: str) -> bool:
    return one.margins is not None and criterion in one.margins.spec["criteria"]


def _called_long(calibration: Mapping[str, Any], layer: Array) -> Array:
    """At how many targets a static ranking calls each row's heads long, [R, H]."""
    targets = list(calibration["targets"].values())
    counts = np.array([target["long"] for target in targets], dtype=np.float32).sum(axis=0)
    return np.asarray(counts[np.searchsorted(targets[0]["layers"], layer)])


def _per_head(target: Mapping[str, Any], layer: Array, margin: Array) -> Array:
    """Margins after what calibration fitted for each head, [R, H]; a target without any changes nothing."""
    fitted = MarginMap.of(target)
    found = margin.astype(np.float64)
    for index in np.unique(layer):
        rows = layer == index
        found[rows] = fitted.apply(int(index), torch.from_numpy(found[rows].T)[None])[0].T.numpy()
    return found.astype(np.float32)
