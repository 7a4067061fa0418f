"""A few outlier keys scored exactly, another estimator for the rest; the keys are scored, not attended.

Reads M keys a KV head more than the rest's estimator and takes M D more multiply-adds a query, whatever T is.

Shapes: B rows, H query heads, K KV heads, Q queries, M outlier keys, D head_dim.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import Estimator
from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import Outliers


@dataclass(frozen=True)
class Scored:
    """Exact log mass of the outliers, together with an estimate of the rest.

    Attributes:
        name: how tables call it.
        outliers: which keys are scored exactly.
        rest: estimator of the other keys.
    """

    name: str
    outliers: Outliers
    rest: Estimator

    def summarise(self, bulk: Bulk) -> tuple[Tensor, Any]:
        """The outlier keys, [K, M, D], and the rest's summary."""
        chosen = self.outliers.choose(bulk)
        return Bulk(bulk.cache, chosen).keys, self.rest.summarise(bulk.without(chosen))

    def log_mass(self, query: Tensor, summary: tuple[Tensor, Any], bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]."""
        keys, rest = summary
        scores = group_heads(precise(query), keys.shape[0]) @ precise(keys).transpose(1, 2)[:, None] * scale
        exact = scores.flatten(1, 2).logsumexp(-1) if keys.shape[1] else query.new_full(query.shape[:3], -torch.inf)
        others = (bulk_size - keys.shape[1]).clamp(min=0)
        estimate = torch.logaddexp(exact, self.rest.log_mass(query, rest, others, scale))
        return estimate.masked_fill(bulk_size == 0, -torch.inf)
