"""What the boundary leaves of a layer for the rows with the same outliers: the outliers and the others' summaries.

Outliers held in few bits are what a local pair attends to; a long pair reads the cache, where they are exact.

Shapes: r rows, H query heads, K KV heads, G = H // K, Q queries, M outlier keys, N bulk keys, D head_dim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import Estimator, RaggedEstimator
from headscope.heads.mass import group_heads, precise
from headscope.heads.quantised import rounded
from headscope.heads.view import Summaries


@dataclass(frozen=True)
class BoundaryState:
    """One layer as it was at the boundary.

    Attributes:
        keys: of the outliers as they are held, [K, M, D]; a KV head with fewer than M has zeros behind them.
        values: the same of their values.
        held: which of these are outliers, bool [K, M].
        summaries: of the other bulk keys, of all heads or of one part of them after the other.
    """

    keys: Tensor
    values: Tensor
    held: Tensor
    summaries: list[Summaries]

    def scores(self, query: Tensor, scale: float) -> Tensor:
        """Scores of the outliers as they are held, for queries [r, H, Q, D]: [r, H, Q, M]."""
        found = group_heads(precise(query), len(self.keys)) @ self.keys.transpose(1, 2)[:, None] * scale
        return found.masked_fill(~self.held[:, None, None], -torch.inf).flatten(1, 2)

    def weighted_values(self, weights: Tensor) -> Tensor:
        """Sum of the outliers' values under weights [r, H, Q, M]: [r, H, Q, D]."""
        return (group_heads(weights, len(self.values)) @ self.values[:, None]).flatten(1, 2)


def make_boundary_state(
    bulk: Bulk, outliers: Tensor, group: int, bits: int, estimators: Iterable[Estimator | None]
) -> BoundaryState:
    """Hold a layer's outliers and summarise the other bulk keys.

    Args:
        bulk: outliers included; as many keys of each KV head.
        outliers: which of its keys these are, bool [K, N].
        group: query heads of a KV head.
        bits: of a number of the outliers' keys and values.
        estimators: of the rest; None is passed over.
    """
    held, rest = bulk.where(outliers), bulk.where(~outliers)
    keys, values = (_rounded(precise(found), held, bits) for found in (held.keys, held.values))
    there = torch.ones_like(held.index, dtype=torch.bool) if held.there is None else held.there
    used = [estimator for estimator in estimators if estimator is not None]
    return BoundaryState(keys, values, there, _summaries(held, rest, group, used))


def _rounded(vectors: Tensor, held: Bulk, bits: int) -> Tensor:
    """Vectors of the outliers, [K, M, D], about the mean of each KV head's own; zeros stay behind them."""
    if held.there is None:
        return rounded(vectors, bits)
    mean = vectors.float().sum(1, keepdim=True) / held.count.clamp(min=1)[:, None, None]
    return rounded(vectors, bits, mean).masked_fill(~held.there[..., None], 0)


def _summaries(held: Bulk, rest: Bulk, group: int, used: Sequence[Estimator]) -> list[Summaries]:
    """Of all heads at once, which takes fewer calls to make and to read, where numbers of keys or estimators let it."""
    if rest.there is None or all(isinstance(estimator, RaggedEstimator) for estimator in used):
        made = {estimator.name: estimator.summarise(rest) for estimator in used}
        outliers = held.index.shape[1] if held.there is None else held.count.repeat_interleave(group)[:, None]
        return [Summaries(slice(0, len(rest.index) * group), outliers, made)]
    parts = []
    for head, count in enumerate(held.count.tolist()):
        one = rest.of_head(head)
        made = {estimator.name: estimator.summarise(one) for estimator in used}
        parts.append(Summaries(slice(head * group, (head + 1) * group), count, made))
    return parts
