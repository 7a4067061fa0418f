"""Tables of margins: one row group a prompt and criterion.

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, Q queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headscope.pipeline.store.layer_rows import Array, LayerRows, as_rows, read_rows

NAME = "margins.parquet"
LISTS = ("margin", "exact", "lost")


@dataclass(frozen=True)
class PromptMargins(LayerRows):
    """Margins of one criterion on one prompt.

    Attributes:
        criterion: its name.
        margin: [N, H], float32.
        exact: exact log-odds of the share of the criterion's own window, [N, H], float32.
        lost: exact log norm of the lost output, [N, H], float32.
    """

    criterion: str
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
        place = np.repeat(cell["layers"], queries), np.tile(positions[has_bulk], layers)
        return cls(prompt, split, *place, criterion, *(as_rows(cell[name][:, :, has_bulk]) for name in LISTS))


def read_margins(folder: Path, criterion: str, split: str) -> Iterator[PromptMargins]:
    """Stream the prompts of a split for one criterion."""
    return read_rows(PromptMargins, folder / NAME, criterion=criterion, split=split)
