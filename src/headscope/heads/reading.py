"""What a decision reads of the bulk, and its cost in bytes of the KV cache.

A label says what a head needs; a cache is read by KV group: once for all query heads of a KV head. Keys and values
count 16 bits a number, as they lie in a cache, whatever precision an experiment computes in.

Shapes: B rows, H query heads, K KV heads, Q queries, D head_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.heads.quantised import vectors_bytes

WIDTH = 2
"""Bytes of a number of a key or value."""
SUMMARY_WIDTH = 4
"""Bytes of a number of a summary: summaries are float32."""


@dataclass(frozen=True)
class Reading:
    """What the queries of one layer read beyond their windows: nothing or all of the bulk.

    Attributes:
        heads: which query heads attend to their bulk, bool [B, H, Q].
        groups: which KV heads' bulks are read, bool [B, K, Q]: those with such a head.
    """

    heads: Tensor
    groups: Tensor

    @classmethod
    def of(cls, long: Tensor, kv_heads: int) -> "Reading":
        """Read the bulk of every KV head that has a long query head, by labels [B, H, Q]."""
        return cls(long, long.view(len(long), kv_heads, -1, long.shape[2]).any(2))


def pair_bytes(keys: float, head_dim: int) -> float:
    """Return the bytes of so many keys with their values."""
    return 2 * keys * head_dim * WIDTH


def decision_bytes(outliers: Tensor, bits: int, summary_numbers: float, head_dim: int) -> Tensor:
    """Return the bytes that one query's decision reads of each KV head beside its plain window, float64 [...].

    Args:
        outliers: how many outlier keys the window of each KV head holds, [...].
        bits: of a number of the outliers' keys and values.
        summary_numbers: float32 numbers of the bulk's summary.
        head_dim: D.
    """
    counts = outliers.double()
    fixed = vectors_bytes(0, bits, head_dim, WIDTH)
    each = vectors_bytes(1, bits, head_dim, WIDTH) - fixed
    vectors = torch.where(counts > 0, counts * each + fixed, 0.0)
    return 2 * vectors + SUMMARY_WIDTH * summary_numbers
