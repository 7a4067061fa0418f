"""Exact and predicted masses of evaluation prompts, as one oracle node or one prompt of it has them.

Shapes: R rows (prompt, layer, query), H query heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Node

Integers = NDArray[np.int64]
KEYS = ["prompt", "layer", "query"]
WORDS = ["prompt", "split", "segment"]


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
class OracleRows:
    """All rows of one oracle node that belong to evaluation prompts; masses are float32.

    Attributes:
        node: the oracle node.
        evaluation: which rows of the node's files belong to evaluation prompts.
        keys: prompt, layer and query of each row, [R].
        local: log mass of the window, [R, H].
        bulk: exact log mass of the bulk, [R, H].
        answer: whether the query is a token of the answer, [R].
    """

    node: Node
    evaluation: pa.ChunkedArray
    keys: pd.DataFrame
    local: NDArray[Any]
    bulk: NDArray[Any]
    answer: NDArray[Any]

    @classmethod
    def read(cls, node: Node) -> "OracleRows":
        """Read the exact masses; estimates stay in their files."""
        columns = [*KEYS, "split", "segment", "local", "bulk"]
        # Few words stand in many rows: as numbers they need a tenth of the time.
        masses = pq.read_table(node.folder / "masses.parquet", columns=columns, read_dictionary=WORDS)
        evaluation = pc.equal(masses["split"], "evaluation")
        masses = masses.filter(evaluation)
        answer = pc.equal(masses["segment"], "answer").to_numpy()
        local, bulk = matrix(masses["local"]), matrix(masses["bulk"])
        return cls(node, evaluation, masses.select(KEYS).to_pandas(), local, bulk, answer)

    def estimate(self, estimator: str) -> NDArray[Any]:
        """Read the predicted log mass of the bulk, [R, H]."""
        table = pq.read_table(self.node.folder / "estimates" / f"{estimator}.parquet", columns=["bulk"])
        return matrix(table.filter(self.evaluation)["bulk"])

    def blocks(self, estimators: Sequence[str]) -> Iterator[Block]:
        """Yield the rows prompt by prompt, in order of first appearance."""
        estimates = {name: self.estimate(name) for name in estimators}
        layer = np.unique(self.keys["layer"], return_inverse=True)[1]
        prompt, names = pd.factorize(self.keys["prompt"])
        for number in range(len(names)):
            rows = np.flatnonzero(prompt == number)
            local, bulk = (masses[rows].astype(np.float64) for masses in (self.local, self.bulk))
            of_prompt = {name: masses[rows].astype(np.float64) for name, masses in estimates.items()}
            yield Block(self.node.spec["task"], layer[rows], local, bulk, of_prompt)


def matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of equally long lists as one array, [rows, list length]; [0, 0] of no rows."""
    values = np.asarray(pc.list_flatten(column).to_numpy())
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)
