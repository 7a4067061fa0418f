"""What adaptive decoding is given of one layer, as plain tensors that live on the GPU.

Shapes: B sequences, H query heads, K KV heads, T keys a sequence may have, P pages of S keys, M outliers, C clusters,
D head_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cache:
    """Keys and values of the layer; both have the same strides, and no gaps in D.

    Attributes:
        keys: rotated, [B, K, T, D]; in pages [P, K, S, D].
        values: the same of the values.
        lengths: keys of each sequence so far, int32 [B]; the query's own is the last. What lies behind is never read.
        pages: of each sequence, in the order of its keys, int32 [B, pages a sequence]; None: in one piece.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    pages: Tensor | None = None


@dataclass(frozen=True)
class OutlierKeys:
    """Bulk keys that belong to the window of a local head, as they are held for it.

    Attributes:
        keys: [B, K, M, D].
        values: [B, K, M, D].
        count: how many of the M there are, int32 [B, K].
    """

    keys: Tensor
    values: Tensor
    count: Tensor


@dataclass(frozen=True)
class BulkSummary:
    """Summary of the bulk without its outliers: clusters of keys; a Gaussian is one cluster.

    Attributes:
        size: keys of each cluster, [B, K, C], float32; not all of them zero.
        keys: means of the clusters' keys, [B, K, C, D].
        values: means of their values, [B, K, C, D].
        covariance: of the keys about their cluster's mean, [B, K, D, D], or its diagonal, [B, K, D].
        spread: each cluster's variance over that of all, [B, K, C], float32.
    """

    size: Tensor
    keys: Tensor
    values: Tensor
    covariance: Tensor
    spread: Tensor


@dataclass(frozen=True)
class ClusterMeans:
    """What the clusters' means in half precision are rounded from; a mean of thousands moves by less than they resolve.

    Attributes:
        keys: [B, K, C, D], float32.
        values: [B, K, C, D], float32.
        metric: factor of the metric in which clusters are near, [B, K, D, D], float32.
    """

    keys: Tensor
    values: Tensor
    metric: Tensor


@dataclass(frozen=True)
class DecisionRule:
    """Local iff the calibrated margin, slope x margin + offset, reaches the threshold.

    Attributes:
        threshold: of each sequence and query head, float32 [B, H]; -inf: always local;
            inf: long wherever the bulk holds more than outliers.
        slope: of each query head, float32 [H].
        offset: of each query head, float32 [H].
        lost_output: the margin is the negative log norm of what the output loses; else the window's log-odds.
    """

    threshold: Tensor
    slope: Tensor
    offset: Tensor
    lost_output: bool = False


@dataclass(frozen=True)
class Decided:
    """One query of every sequence, or in prefill all T of its tokens.

    Attributes:
        output: of attention, [B, H, D] or [B, H, T, D].
        long: which heads read their bulk, bool [B, H] or [B, H, T].
    """

    output: Tensor
    long: Tensor


def rows_of(cache: Cache, sequence: int) -> tuple[Tensor, Tensor]:
    """Keys and values of one sequence, [K, length, D]."""
    length = int(cache.lengths[sequence])
    if cache.pages is None:
        return cache.keys[sequence, :, :length], cache.values[sequence, :, :length]
    pages = cache.pages[sequence, : -(-length // cache.keys.shape[2])].long()
    keys, values = (torch.cat(list(x[pages]), 1) if len(pages) else x[0] for x in (cache.keys, cache.values))
    return keys[:, :length], values[:, :length]


def is_long(margin: Tensor, slope: Tensor, offset: Tensor, threshold: Tensor) -> Tensor:
    """Whether calibrated margins are below the threshold, or NaN; infinite ones stay as they are."""
    calibrated = torch.where(margin.isinf(), margin, slope * margin + offset)
    return ~(calibrated >= threshold)
