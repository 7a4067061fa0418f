"""Lets transformers read a GGUF file by faster code than gguf's own, to the same values.

gguf makes an array for each length and each word of a vocabulary by several slices of a file in memory, and unpacks
weights sixteen rows at a time on one core; transformers asks it for a table of all names for each module of a model.
Here a list is cut in one loop, a file is parsed once for all that ask, the table is made once, and weights are unpacked
by as many threads as torch has.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from struct import Struct
from typing import Any
from unittest.mock import patch

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType
from numpy.typing import NDArray

PIECE = 1 << 19
"""Numbers that a thread unpacks at once: two megabytes, which stay in a core's cache."""


@contextmanager
def fast_reader() -> Iterator[None]:
    """Let whoever imports gguf's reader or its function for unpacking get ours inside the block."""
    parsed = cache(_Reader)
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        patch.object(gguf, "GGUFReader", lambda path: parsed(str(path))),
        patch.object(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        patch.object(gguf, "dequantize", partial(_dequantize, pool)),
    ):
        yield


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """gguf's reader, whose lists are read in one loop."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        """Return the size of a field's value, its parts, which of them are data, and its types."""
        if raw_type != GGUFValueType.ARRAY:
            parts: tuple[int, list[Any], list[int], list[GGUFValueType]] = super()._get_field_parts(orig_offs, raw_type)
            return parts
        inner, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        kind, start = GGUFValueType(inner[0]), orig_offs + 12
        if kind == GGUFValueType.STRING:
            values, end = self._texts(start, int(length[0]))
        else:
            numbers = self._get(start, self.gguf_scalar_to_np[kind], length[0])
            values, end = list(numbers.view(np.ndarray).reshape(-1, 1)), start + numbers.nbytes
        types = [GGUFValueType.ARRAY, kind] if values else [GGUFValueType.ARRAY]
        return end - orig_offs, [inner, length, *values], list(range(2, 2 + len(values))), types

    def _texts(self, at: int, count: int) -> tuple[list[NDArray[np.uint8]], int]:
        """Return the bytes of texts, each behind its length, and where they end."""
        data, size = self.data.view(np.ndarray), Struct("<Q" if self.byte_order == "I" else ">Q")
        texts = []
        for _ in range(count):
            start = at + size.size
            at = start + size.unpack_from(data, at)[0]
            texts.append(data[start:at])
        return texts, at


def _dequantize(pool: ThreadPoolExecutor, data: NDArray[Any], qtype: GGMLQuantizationType) -> NDArray[np.float32]:
    """Unpack weights to float32, as `gguf.dequantize` does: each block by itself, whatever the rows."""
    if qtype in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        plain: NDArray[np.float32] = gguf.quants.dequantize(data, qtype)
        return plain
    numbers, size = gguf.GGML_QUANT_SIZES[qtype]
    packed, blocks = data.reshape(-1), PIECE // numbers
    weights = np.empty((*data.shape[:-1], data.shape[-1] // size * numbers), np.float32)
    flat = weights.reshape(-1)

    def unpack(first: int) -> None:
        piece = packed[first * size : (first + blocks) * size]
        flat[first * numbers : (first + blocks) * numbers] = gguf.quants.dequantize(piece, qtype)

    list(pool.map(unpack, range(0, len(packed) // size, blocks)))
    return weights
