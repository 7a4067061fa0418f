"""Gaussian scores: the bulk's log mass from the mean and covariance of its keys (arXiv 2502.09647, QAdA).

Reads D^2 + D numbers a KV head and takes about D^2 multiply-adds a query ("diagonal": 2 D, "none": D), whatever T is;
D numbers more where values are asked for.

Shapes: B rows, H query heads, K KV heads, Q queries, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import precise
from headscope.heads.moments import Covariance, KeyMoments, gaussian_log_mass


@dataclass(frozen=True)
class GaussianSummary:
    """What is kept of a layer's bulk.

    Attributes:
        moments: of the keys.
        value: mean of the values, [K, D].
    """

    moments: KeyMoments
    value: Tensor


@dataclass(frozen=True)
class Gaussian:
    """Log-normal mean of the bulk, its moments frozen at the boundary.

    Attributes:
        name: how tables call it.
        covariance: "full", "diagonal" or "none" (scores all equal to their mean).
        capped: use the expected maximum where the variance is too large for the number of keys.
        moments: moments of another text by layer; None takes those of the prompt's own bulk.
    """

    name: str
    covariance: Covariance = "full"
    capped: bool = False
    moments: Mapping[int, KeyMoments] | None = None

    def summarise(self, bulk: Bulk) -> GaussianSummary:
        """Moments of the bulk's keys, or of the other text; the values are always the bulk's."""
        moments = KeyMoments.of(bulk.keys) if self.moments is None else self.moments[bulk.cache.layer]
        values = precise(bulk.values)
        return GaussianSummary(moments, values.sum(1) / max(values.shape[1], 1))

    def log_mass(self, query: Tensor, summary: GaussianSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count is the true one, not that of the summary."""
        mean, variance = summary.moments.score_moments(query, scale, self.covariance)
        return gaussian_log_mass(mean, variance, bulk_size, self.capped)

    def value(self, query: Tensor, summary: GaussianSummary, scale: float) -> Tensor:
        """Mean value, whatever the query, [B, H, Q, D]."""
        heads = query.shape[1] // summary.value.shape[0]
        return summary.value.repeat_interleave(heads, 0)[None, :, None].expand(query.shape)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Gaussian:
    """Make the estimator; `moments` names another text, or `prompt`."""
    moments = None if spec["moments"] == "prompt" else fitted[spec["moments"]]
    return Gaussian(spec["name"], spec["covariance"], spec["capped"], moments)


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head's summary: mean, the covariance's (it is symmetric) and, for values, their mean."""
    spread: float = {"full": head_dim * (head_dim + 1) / 2, "diagonal": head_dim, "none": 0}[spec["covariance"]]
    return spread + head_dim * (1 + values)
