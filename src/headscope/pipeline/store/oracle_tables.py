"""Parquet tables of log masses: one row group a prompt, one row a (layer, query), written and read as a stream.

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, Q queries.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class PromptMasses:
    """Exact log masses of one prompt.

    Attributes:
        prompt: its id.
        split: "evaluation" or "calibration".
        layer: [N].
        query: absolute positions, [N].
        segment: "context", "question", "prefix" or "answer", [N].
        local: window log mass, [N, H], float32.
        bulk: bulk log mass, [N, H].
        bulk_size: [N], never 0.
    """

    prompt: str
    split: str
    layer: Array
    query: Array
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


def as_rows(values: Array) -> Array:
    """Turn [L, H, Q] into rows, [L * Q, H]."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1])


def as_lists(values: Array) -> pa.Array:
    """Turn [N, H] into a column of float32 lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])


def masses_table(masses: PromptMasses) -> pa.Table:
    """Return one prompt's rows of masses.parquet."""
    rows = len(masses.layer)
    return pa.table(
        {
            "prompt": pa.array([masses.prompt] * rows, pa.string()),
            "split": pa.array([masses.split] * rows, pa.string()),
            "layer": pa.array(masses.layer, pa.int16()),
            "query": pa.array(masses.query, pa.int32()),
            "segment": pa.array(masses.segment, pa.string()),
            "local": as_lists(masses.local),
            "bulk": as_lists(masses.bulk),
            "bulk_size": pa.array(masses.bulk_size, pa.int32()),
        }
    )


def estimates_table(masses: PromptMasses, bulk: Array) -> pa.Table:
    """Return one prompt's rows of an estimator's table; bulk is [N, H], in the order of the masses' rows."""
    columns = masses_table(masses).select(["prompt", "layer", "query"])
    return columns.append_column("bulk", as_lists(bulk))


def read_masses(folder: Path, split: str) -> Iterator[PromptMasses]:
    """Stream the prompts of a split."""
    for table in row_groups(folder / "masses.parquet"):
        if table.num_rows and table["split"][0].as_py() == split:
            columns = {name: table[name].to_numpy() for name in ("layer", "query", "segment", "bulk_size")}
            masses = {name: as_matrix(table[name]) for name in ("local", "bulk")}
            yield PromptMasses(table["prompt"][0].as_py(), split, **columns, **masses)


def read_estimates(folder: Path, estimator: str, prompts: set[str]) -> dict[str, Array]:
    """Return the estimated bulk log masses of prompts, [N, H] each, in the order of the masses' rows."""
    tables = row_groups(folder / "estimates" / f"{estimator}.parquet")
    by_prompt = ((table["prompt"][0].as_py(), table) for table in tables if table.num_rows)
    return {prompt: as_matrix(table["bulk"]) for prompt, table in by_prompt if prompt in prompts}


def row_groups(file: Path) -> Iterator[pa.Table]:
    """Stream the row groups of a file."""
    parquet = pq.ParquetFile(file)
    for index in range(parquet.num_row_groups):
        yield parquet.read_row_group(index)


def as_matrix(column: pa.ChunkedArray) -> Array:
    """Turn a column of lists into [N, H]."""
    lists = column.combine_chunks()
    values: Array = lists.flatten().to_numpy()
    return values.reshape(len(column), -1)
