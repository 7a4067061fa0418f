"""A few outlier keys scored exactly, another estimator for the rest; the keys are scored, not attended.

Reads M keys a KV head more than the rest's estimator and takes M D more multiply-adds a query, whatever T is.

Shapes: B rows, H query heads, K KV heads, Q queries, M outlier keys, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.heads import estimators
from headscope.heads.bulk import Bulk
from headscope.heads.estimators import Estimator
from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import choose


@dataclass(frozen=True)
class Scored:
    """Exact log mass of the outliers, together with an estimate of the rest.

    Attributes:
        name: how tables call it.
        rules: that choose the outliers.
        count: outliers of each KV head.
        rest: estimator of the other keys.
    """

    name: str
    rules: tuple[str, ...]
    count: int
    rest: Estimator

    def summarise(self, bulk: Bulk) -> tuple[Tensor, Any]:
        """The outlier keys, [K, M, D], and the rest's summary."""
        chosen = choose(self.rules, bulk, self.count)
        return Bulk(bulk.cache, chosen).keys, self.rest.summarise(bulk.without(chosen))

    def log_mass(self, query: Tensor, summary: tuple[Tensor, Any], bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]."""
        keys, rest = summary
        scores = group_heads(precise(query), keys.shape[0]) @ precise(keys).transpose(1, 2)[:, None] * scale
        exact = scores.flatten(1, 2).logsumexp(-1) if keys.shape[1] else query.new_full(query.shape[:3], -torch.inf)
        others = (bulk_size - keys.shape[1]).clamp(min=0)
        estimate = torch.logaddexp(exact, self.rest.log_mass(query, rest, others, scale))
        return estimate.masked_fill(bulk_size == 0, -torch.inf)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Scored:
    """Make the estimator; `rest` is a slice of its own."""
    return Scored(spec["name"], tuple(spec["rules"]), spec["count"], estimators.build(spec["rest"], fitted))
