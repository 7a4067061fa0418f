"""What the boundary leaves of a layer for the rows with the same outliers: the outliers and the others' summaries.

Outliers held in few bits are what a local pair attends to; a long pair reads the cache, where they are exact.

Shapes: r rows, H query heads, K KV heads, Q queries, T keys of which P are of the prefix, M outlier keys, D head_dim.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import Estimator
from headscope.heads.mass import precise
from headscope.heads.outliers import Outliers
from headscope.heads.quantised import FULL, rounded


@dataclass(frozen=True)
class Frozen:
    """One layer as it was at the boundary.

    Attributes:
        outliers: their positions for each query head, [H, M].
        marks: the same as a mask, bool [H, 1, P].
        key_error: what rounding adds to their keys, [H, M, D]; None where they are not rounded.
        value_error: the same of their values.
        summaries: each estimator's summary of the other bulk keys, by the estimator's name.
    """

    outliers: Tensor
    marks: Tensor
    key_error: Tensor | None
    value_error: Tensor | None
    summaries: dict[str, Any]

    def rounded_scores(self, query: Tensor, scores: Tensor, scale: float) -> Tensor:
        """Scores with those of the rounded outliers, [r, H, Q, T]; the given ones where nothing is rounded.

        Args:
            query: [r, H, Q, D].
            scores: of the exact keys, [r, H, Q, T].
            scale: factor of the scores.
        """
        if self.key_error is None:
            return scores
        added = precise(query) @ self.key_error.transpose(1, 2) * scale
        return scores.scatter_add(-1, self._columns(scores), added.to(scores.dtype))

    def outlier_mass(self, scores: Tensor) -> Tensor:
        """Log mass of the outliers, [r, H, Q], of scores [r, H, Q, T]."""
        return scores.gather(-1, self._columns(scores)).logsumexp(-1)

    def rounding_of(self, weights: Tensor) -> Tensor | float:
        """What rounded values add to an output with these weights: [r, H, Q, T] to [r, H, Q, D]."""
        if self.value_error is None:
            return 0.0
        return weights.gather(-1, self._columns(weights)) @ self.value_error.to(weights.dtype)

    def _columns(self, scores: Tensor) -> Tensor:
        return self.outliers[None, :, None].expand(*scores.shape[:3], -1)


def freeze(bulk: Bulk, heads: int, outliers: Outliers, estimators: Iterable[Estimator | None]) -> Frozen:
    """Choose a layer's outliers and summarise the other bulk keys.

    Args:
        bulk: the layer's bulk at the boundary.
        heads: query heads.
        outliers: the rule.
        estimators: of the rest; None is passed over.
    """
    chosen = outliers.choose(bulk)
    rest = bulk.without(chosen)
    summaries = {found.name: found.summarise(rest) for found in estimators if found is not None}
    group = heads // chosen.shape[0]
    index = chosen.repeat_interleave(group, 0)
    marks = torch.zeros(heads, bulk.cache.keys.shape[1], dtype=torch.bool, device=index.device).scatter(1, index, True)
    held = Bulk(bulk.cache, chosen)
    errors = [_rounding(vectors, outliers.bits, group) for vectors in (held.keys, held.values)]
    return Frozen(index, marks[:, None], errors[0], errors[1], summaries)


def _rounding(vectors: Tensor, bits: int, group: int) -> Tensor | None:
    """What rounding adds to [K, M, D] for each query head, [H, M, D]; None if nothing is rounded."""
    if bits >= FULL:
        return None
    exact = precise(vectors)
    return (rounded(exact, bits) - exact).repeat_interleave(group, 0)
