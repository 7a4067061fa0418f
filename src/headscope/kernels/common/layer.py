"""One layer of an adaptive forward as plain tensors: what the kernels and their references read and return.

Shapes: B sequences, H query heads, K KV heads, T keys that a cache can hold, P pages of S keys, M outliers, C clusters,
D head_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.errors import ConfigError


@dataclass(frozen=True)
class Cache:
    """Keys and values of the layer; both have the same strides, and no gaps in D.

    Attributes:
        keys: rotated, [B, K, T, D]; in pages [P, K, S, D].
        values: shaped as the keys.
        lengths: keys of each sequence so far, int32 [B]; the last is the query's own. Nothing behind them is read.
        pages: of each sequence, in the order of its keys, int32 [B, pages a sequence]; None: keys lie in one piece.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    pages: Tensor | None = None


@dataclass(frozen=True)
class OutlierKeys:
    """Copies of the bulk keys that belong to the window of a local head.

    Attributes:
        keys: [B, K, M, D].
        values: [B, K, M, D].
        count: how many of the M each KV head has, int32 [B, K].
    """

    keys: Tensor
    values: Tensor
    count: Tensor


@dataclass(frozen=True)
class BulkSummary:
    """Summary of the bulk without its outliers: clusters of keys; a Gaussian is one cluster.

    Attributes:
        size: keys of each cluster, [B, K, C], float32; not all of them zero.
        keys: mean key of each cluster, [B, K, C, D].
        values: mean value of each cluster, [B, K, C, D].
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
    """Means of the clusters in single precision. One key moves the mean of thousands by less than bfloat16 resolves.

    Attributes:
        keys: [B, K, C, D], float32.
        values: [B, K, C, D], float32.
        metric: factor of the metric in which the nearest cluster is sought, [B, K, D, D], float32.
    """

    keys: Tensor
    values: Tensor
    metric: Tensor


@dataclass(frozen=True)
class DecisionRule:
    """Calls a head local iff its calibrated margin, slope x margin + offset, reaches the threshold.

    Attributes:
        threshold: of each sequence and query head, float32 [B, H]; -inf: always local;
            inf: long wherever the bulk holds more than outliers.
        slope: of each query head, float32 [H].
        offset: of each query head, float32 [H].
        lost_output: the margin is the negative log norm of what the output loses; else the window's log-odds.
        by_group: the heads of a KV group get one label, from their losses or shares together; the largest of their
            thresholds counts. Decoding alone knows it.
    """

    threshold: Tensor
    slope: Tensor
    offset: Tensor
    lost_output: bool = False
    by_group: bool = False

    def require_heads(self) -> None:
        """Refuse to decide by group where each head is labelled by itself.

        Raises:
            ConfigError: the rule decides by group.
        """
        if self.by_group:
            raise ConfigError("unit=group labels KV groups while decoding alone; use unit=head with scope=prompt")


@dataclass(frozen=True)
class Decided:
    """Result of one query of every sequence, or in prefill of all T tokens.

    Attributes:
        output: of attention, [B, H, D] or [B, H, T, D].
        long: which heads read their bulk, bool [B, H] or [B, H, T].
    """

    output: Tensor
    long: Tensor


def sequence_keys_and_values(cache: Cache, sequence: int) -> tuple[Tensor, Tensor]:
    """Return keys and values of one sequence, [K, length, D] each."""
    length = int(cache.lengths[sequence])
    if cache.pages is None:
        return cache.keys[sequence, :, :length], cache.values[sequence, :, :length]
    pages = cache.pages[sequence, : -(-length // cache.keys.shape[2])].long()
    keys, values = (torch.cat(list(x[pages]), 1) if len(pages) else x[0] for x in (cache.keys, cache.values))
    return keys[:, :length], values[:, :length]


def calibrated(margin: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Calibrate margins; infinite ones are certain and stay as they are."""
    return torch.where(margin.isinf(), margin, slope * margin + offset)


def is_long(margin: Tensor, threshold: Tensor) -> Tensor:
    """Return whether calibrated margins are below the threshold, or NaN."""
    return ~(margin >= threshold)
