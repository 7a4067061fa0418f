"""Parquet table of margins: one row group a prompt and criterion, one row a (layer, query).

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, Q queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headscope.pipeline.store.oracle_tables import as_lists, as_matrix, as_rows, row_groups

Array = NDArray[Any]
NAME = "margins.parquet"
LISTS = ("margin", "exact", "lost")


@dataclass(frozen=True)
class PromptMargins:
    """Margins of one criterion on one prompt.

    Attributes:
        prompt: its id.
        split: "evaluation" or "calibration".
        criterion: its name.
        layer: [N].
        query: absolute positions, [N].
        margin: [N, H], float32.
        exact: exact log-odds of the share of the criterion's own window, [N, H], float32.
        lost: exact log norm of the lost output, [N, H], float32.
    """

    prompt: str
    split: str
    criterion: str
    layer: Array
    query: Array
    margin: Array
    exact: Array
    lost: Array

    @classmethod
    def of(
        cls, prompt: str, split: str, criterion: str, positions: Array, cell: Mapping[str, Array]
    ) -> "PromptMargins":
        """Turn a cell's arrays ([L, H, Q]) into rows; leave out queries without a bulk, whose margins are infinite."""
        has_bulk = ~np.isposinf(cell["margin"]).all((0, 1))
        layers, queries = len(cell["layers"]), int(has_bulk.sum())
        rows = {name: as_rows(cell[name][:, :, has_bulk]) for name in LISTS}
        place = np.repeat(cell["layers"], queries), np.tile(positions[has_bulk], layers)
        return cls(prompt, split, criterion, *place, **rows)

    def table(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        count = len(self.layer)
        words = {
            name: pa.array([getattr(self, name)] * count, pa.string()) for name in ("prompt", "split", "criterion")
        }
        lists = {name: as_lists(getattr(self, name)) for name in LISTS}
        return pa.table(
            {**words, "layer": pa.array(self.layer, pa.int16()), "query": pa.array(self.query, pa.int32()), **lists}
        )


def read_margins(folder: Path, criterion: str, split: str) -> Iterator[PromptMargins]:
    """Stream the prompts of a split for one criterion."""
    for table in row_groups(folder / NAME):
        if table.num_rows and (table["criterion"][0].as_py(), table["split"][0].as_py()) == (criterion, split):
            columns = {name: table[name].to_numpy() for name in ("layer", "query")}
            lists = {name: as_matrix(table[name]) for name in LISTS}
            yield PromptMargins(table["prompt"][0].as_py(), split, criterion, **columns, **lists)
