"""Tables of exact and estimated log masses, and of margins: one row group a prompt (margins: and criterion).

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, Q queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from headscope.pipeline.store.layer_rows import Array, LayerRows, as_array, as_lists, as_rows, read_rows, row_groups

MARGINS = "margins.parquet"
LISTS = ("margin", "exact", "lost")


@dataclass(frozen=True)
class PromptMasses(LayerRows):
    """Exact log masses of one prompt: the rows of masses.parquet.

    Attributes:
        segment: "context", "question", "prefix" or "answer", [N].
        local: window log mass, [N, H], float32.
        bulk: bulk log mass, [N, H].
        bulk_size: [N], never 0.
    """

    segment: Array
    local: Array
    bulk: Array
    bulk_size: Array

    @classmethod
    def of(cls, prompt: str, split: str, segment: Array, cell: Mapping[str, Array]) -> "PromptMasses":
        """Turn a cell's arrays ([L, H, Q] masses, [Q] positions) into rows; leave out queries without a bulk."""
        has_bulk = cell["bulk_size"] > 0
        layers, queries = len(cell["layers"]), int(has_bulk.sum())
        return cls(
            prompt,
            split,
            np.repeat(cell["layers"], queries),
            np.tile(cell["position"][has_bulk], layers),
            np.tile(segment[has_bulk], layers),
            as_rows(cell["local"][:, :, has_bulk]),
            as_rows(cell["bulk"][:, :, has_bulk]),
            np.tile(cell["bulk_size"][has_bulk], layers),
        )


def estimates_table(masses: PromptMasses, bulk: Array) -> pa.Table:
    """Return one prompt's rows of an estimator's table; bulk is [N, H], in the order of the masses' rows."""
    columns = masses.table().select(["prompt", "layer", "query"])
    return columns.append_column("bulk", as_lists(bulk))


def read_masses(folder: Path, split: str) -> Iterator[PromptMasses]:
    """Stream the prompts of a split."""
    return read_rows(PromptMasses, folder / "masses.parquet", split=split)


def read_estimates(folder: Path, estimator: str, prompts: set[str]) -> dict[str, Array]:
    """Return the estimated bulk log masses of prompts, [N, H] each, in the order of the masses' rows."""
    tables = row_groups(folder / "estimates" / f"{estimator}.parquet")
    by_prompt = ((table["prompt"][0].as_py(), table) for table in tables if table.num_rows)
    return {prompt: as_array(table["bulk"]) for prompt, table in by_prompt if prompt in prompts}


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
    return read_rows(PromptMargins, folder / MARGINS, criterion=criterion, split=split)
