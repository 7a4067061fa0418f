"""Parquet tables with one row a (layer, query) and one row group a prompt, written and read as a stream.

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, Q queries.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = {"layer": pa.int16(), "query": pa.int32(), "segment": pa.string(), "bulk_size": pa.int32()}


@dataclass(frozen=True)
class LayerRows:
    """Rows of one prompt. A subclass adds fields: texts of the prompt, arrays [N] of `TYPES` and arrays [N, H].

    Attributes:
        prompt: its id.
        split: "evaluation" or "calibration".
        layer: [N].
        query: absolute positions, [N].
    """

    prompt: str
    split: str
    layer: Array
    query: Array

    def table(self) -> pa.Table:
        """Return the rows as an Arrow table, arrays [N, H] as lists of float32."""
        return pa.table({field.name: self._column(field.name) for field in fields(self)})

    def _column(self, name: str) -> pa.Array:
        value = getattr(self, name)
        if isinstance(value, str):
            return pa.array([value] * len(self.layer), pa.string())
        return pa.array(value, TYPES[name]) if value.ndim == 1 else as_lists(value)


Rows = TypeVar("Rows", bound=LayerRows)


def read_rows(kind: type[Rows], file: Path, **texts: str) -> Iterator[Rows]:
    """Stream the prompts of a file whose texts (split, criterion) have these values."""
    for table in row_groups(file):
        if table.num_rows and all(table[name][0].as_py() == value for name, value in texts.items()):
            values: dict[str, Any] = {
                field.name: table[field.name][0].as_py() if field.type is str else as_array(table[field.name])
                for field in fields(kind)
            }
            yield kind(**values)


def writer(file: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a file for tables with one row group each; lists hold few equal floats, so no dictionary of them is made."""
    single = [field.name for field in schema if not pa.types.is_fixed_size_list(field.type)]
    return pq.ParquetWriter(file, schema, use_dictionary=single)


def row_groups(file: Path) -> Iterator[pa.Table]:
    """Stream the row groups of a file."""
    parquet = pq.ParquetFile(file)
    for index in range(parquet.num_row_groups):
        yield parquet.read_row_group(index)


def as_rows(values: Array) -> Array:
    """Turn [L, H, Q] into rows, [L * Q, H]."""
    return values.transpose(0, 2, 1).reshape(-1, values.shape[1])


def as_lists(values: Array) -> pa.Array:
    """Turn [N, H] into a column of float32 lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])


def as_array(column: pa.ChunkedArray) -> Array:
    """Turn a column into an array, [N], or [N, H] if it holds lists."""
    if not pa.types.is_fixed_size_list(column.type) and not pa.types.is_list(column.type):
        return np.asarray(column.to_numpy())
    lists = column.combine_chunks()
    return np.asarray(lists.flatten().to_numpy()).reshape(len(column), -1)
