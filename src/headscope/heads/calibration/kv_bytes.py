"""Thresholds that spend a budget: a share of the bytes of reading every key and value.

A group whose margin lies below the threshold reads its bulk, all groups read the window and what decisions need. One
threshold serves all layers and groups, so that bytes go where most would be lost.

Shapes: N rows (layer, query) of one prompt, H query heads, K KV heads. Every prompt weighs the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.calibration.thresholds import Floats, no_pairs
from headscope.heads.reading import pair_bytes
from headscope.heads.window import Window


@dataclass(frozen=True)
class Costs:
    """Bytes that a query reads in a layer.

    Attributes:
        window: the plain window, which every KV head reads.
        kv_heads: K.
        head_dim: size of a head.
        decision: bytes of a KV head that a decision reads beside the window: outliers and summaries.
    """

    window: Window
    kv_heads: int
    head_dim: int
    decision: float

    def all(self, position: NDArray[np.integer]) -> Floats:
        """Bytes of every key and value that queries at these positions see, of one KV head."""
        return np.asarray(pair_bytes(1, self.head_dim) * (position.astype(np.float64) + 1))

    def bulk(self, position: NDArray[np.integer]) -> Floats:
        """Bytes of their bulks, of one KV head."""
        size = self.window.bulk_size(torch.from_numpy(position.astype(np.int64))).numpy()
        return np.asarray(pair_bytes(1, self.head_dim) * size.astype(np.float64))

    def fixed(self) -> float:
        """Bytes that a query reads of one KV head whatever is decided."""
        return pair_bytes(self.window.sink + self.window.recent, self.head_dim) + self.decision

    def share(self, reads: NDArray[np.bool_], position: NDArray[np.integer]) -> float:
        """Return the share of the KV bytes that a prompt reads.

        Args:
            reads: groups that read their bulk, [N, K].
            position: of each row's query, [N], all with a bulk.
        """
        read = self.fixed() * reads.size + (reads * self.bulk(position)[:, None]).sum()
        return float(read / (self.all(position).sum() * self.kv_heads))


def group_margin(margin: Floats, kv_heads: int) -> Floats:
    """Return the margin at which a group starts to read, [N, K], of margins [N, H]: that of its neediest head.

    A NaN reads its bulk whatever the threshold, as the criteria do.
    """
    known = np.nan_to_num(margin, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    lowest: Floats = known.reshape(len(known), kv_heads, -1).min(2)
    return lowest


def threshold_for_bytes(
    margins: Sequence[Floats], positions: Sequence[NDArray[np.integer]], costs: Costs, share: float
) -> float:
    """Return one threshold for all heads: the largest at which prompts read at most a share of the KV bytes.

    Where the window and the decisions alone read more, nothing else is read.

    Args:
        margins: of each prompt, [N, H].
        positions: of the query of each row, [N].
        costs: of the criterion.
        share: wanted mean over prompts, in (0, 1).

    Raises:
        ConfigError: no prompt has a pair.
    """
    prompts = [(group_margin(m, costs.kv_heads), p) for m, p in zip(margins, positions, strict=True) if m.size]
    if not prompts:
        raise no_pairs()
    values = np.concatenate([groups.ravel() for groups, _ in prompts])
    weights = np.concatenate([_weights(groups, position, costs) for groups, position in prompts]) / len(prompts)
    fixed = np.mean([costs.share(np.zeros(groups.shape, bool), position) for groups, position in prompts])
    order = np.argsort(values, kind="stable")
    read = int(np.searchsorted(np.cumsum(weights[order]), (share - fixed) * (1 + 1e-12), side="right"))
    if read < len(order):
        return float(values[order[read]])
    return float(np.nextafter(values[order[-1]], np.inf))


def _weights(groups: Floats, position: NDArray[np.integer], costs: Costs) -> Floats:
    """Return the share of a prompt's KV bytes that each group's bulk is, [N K]."""
    bulk = costs.bulk(position) / (costs.all(position).sum() * costs.kv_heads)
    return np.repeat(bulk, groups.shape[1])
