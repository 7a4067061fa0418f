"""A few outlier keys scored exactly, another estimator for the rest; the keys are scored, not attended.

Reads M keys a KV head more than the rest's estimator (and their values where asked for), as wide as the model's or in
few bits, and takes M D more multiply-adds a query, whatever T is.

Shapes: B rows, H query heads, K KV heads, Q queries, N bulk keys, M outlier keys, D head_dim.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import ValueEstimator
from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import OutlierRule
from headscope.heads.quantised import rounded


@dataclass(frozen=True)
class ScoredSummary:
    """What is kept of a layer's bulk.

    Attributes:
        keys: of the outliers, [K, M, D].
        values: of the outliers, [K, M, D].
        rest: summary of the others.
        others: how many these are.
    """

    keys: Tensor
    values: Tensor
    rest: Any
    others: int


@dataclass(frozen=True)
class Scored:
    """Exact log mass of the outliers, together with an estimate of the rest.

    Attributes:
        name: how tables call it.
        outliers: which keys are scored exactly.
        rest: estimator of the other keys.
    """

    name: str
    outliers: OutlierRule
    rest: ValueEstimator

    def summarise(self, bulk: Bulk) -> ScoredSummary:
        """The outliers and the rest's summary."""
        chosen = self.outliers.choose(bulk)
        found = Bulk(bulk.cache, chosen)
        keys, values = (rounded(vectors, self.outliers.bits) for vectors in (found.keys, found.values))
        rest = bulk.without(chosen)
        return ScoredSummary(keys, values, self.rest.summarise(rest), rest.index.shape[1])

    def update(self, summary: ScoredSummary, keys: Tensor, values: Tensor) -> ScoredSummary:
        """Add keys and values, [K, N, D], to the rest: outliers are chosen once."""
        rest = self.rest.update(summary.rest, keys, values)
        return replace(summary, rest=rest, others=summary.others + keys.shape[1])

    def log_mass(self, query: Tensor, summary: ScoredSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]."""
        exact = _scores(query, summary.keys, scale).logsumexp(-1).flatten(1, 2)
        others = (bulk_size - summary.keys.shape[1]).clamp(min=0)
        estimate = torch.logaddexp(exact, self.rest.log_mass(query, summary.rest, others, scale))
        return estimate.masked_fill(bulk_size == 0, -torch.inf)

    def value(self, query: Tensor, summary: ScoredSummary, scale: float) -> Tensor:
        """Mean value of the outliers and the rest by their estimated masses, [B, H, Q, D]."""
        rest = self.rest.value(query, summary.rest, scale)
        if not summary.keys.shape[1]:
            return rest
        scores = _scores(query, summary.keys, scale)
        exact = torch.einsum("bkgqm,kmd->bkgqd", scores.softmax(-1), precise(summary.values)).flatten(1, 2)
        others = torch.full((query.shape[2],), summary.others, device=query.device)
        apart = scores.logsumexp(-1).flatten(1, 2) - self.rest.log_mass(query, summary.rest, others, scale)
        return torch.lerp(rest, exact.to(rest.dtype), apart.sigmoid().to(rest.dtype)[..., None])


def _scores(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Scores of each group's queries, [B, K, G, Q, M]."""
    return torch.einsum("bkgqd,kmd->bkgqm", group_heads(precise(query), keys.shape[0]), precise(keys)) * scale
