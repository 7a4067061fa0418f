"""Gaussian scores: the bulk's log mass from the mean and covariance of its keys (arXiv 2502.09647, QAdA).

Reads about D^2 / 2 + D numbers a KV head and takes D^2 + 2 D multiply-adds a query ("diagonal": 2 D and 3 D, "none":
D and D, "low_rank": (R + 2) D and (R + 3) D), whatever T is; D numbers more where values are asked for. `update` merges
whole covariances, which are kept aside.

Shapes: B rows, H query heads, K KV heads, Q queries, N bulk keys, R rank, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import precise
from headscope.heads.moments import Covariance, KeyMoments, LowRank, gaussian_log_mass


@dataclass(frozen=True)
class GaussianSummary:
    """What is kept of a layer's bulk.

    Attributes:
        moments: of the keys.
        count: keys of the bulk, which another text's moments do not tell.
        value: mean of the values, [K, D].
        low_rank: of the covariance, where a query reads no more of it.
    """

    moments: KeyMoments
    count: int
    value: Tensor
    low_rank: LowRank | None = None


@dataclass(frozen=True)
class Gaussian:
    """Log-normal mean of the bulk.

    Attributes:
        name: how tables call it.
        covariance: "full", "diagonal" or "none" (scores all equal to their mean).
        capped: use the expected maximum where the variance is too large for the number of keys.
        moments: moments of another text by layer; None takes those of the prompt's own bulk.
        rank: top eigenvectors of a full covariance that are kept, with the diagonal of the rest; None keeps all.
    """

    name: str
    covariance: Covariance = "full"
    capped: bool = False
    moments: Mapping[int, KeyMoments] | None = None
    rank: int | None = None

    def summarise(self, bulk: Bulk) -> GaussianSummary:
        """Moments of the bulk's keys, or of the other text; the values are always the bulk's."""
        moments = KeyMoments.of(bulk.keys) if self.moments is None else self.moments[bulk.cache.layer]
        values = precise(bulk.values)
        return self._summary(moments, values.shape[1], values.sum(1) / max(values.shape[1], 1))

    def update(self, summary: GaussianSummary, keys: Tensor, values: Tensor) -> GaussianSummary:
        """Add keys and values, [K, N, D]; exact, in any order. Another text's moments stay."""
        moments, count = summary.moments, summary.count + keys.shape[1]
        if self.moments is None:
            moments = moments.merge(KeyMoments.of(keys))
        total = summary.value * summary.count + precise(values).sum(1)
        return self._summary(moments, count, total / max(count, 1))

    def log_mass(self, query: Tensor, summary: GaussianSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count is the true one, not that of the summary."""
        mean, variance = summary.moments.score_moments(query, scale, summary.low_rank or self.covariance)
        return gaussian_log_mass(mean, variance, bulk_size, self.capped)

    def value(self, query: Tensor, summary: GaussianSummary, scale: float) -> Tensor:
        """Mean value, whatever the query, [B, H, Q, D]."""
        heads = query.shape[1] // summary.value.shape[0]
        return summary.value.repeat_interleave(heads, 0)[None, :, None].expand(query.shape)

    def _summary(self, moments: KeyMoments, count: int, value: Tensor) -> GaussianSummary:
        low_rank = None if self.rank is None else LowRank.of(moments.covariance, self.rank)
        return GaussianSummary(moments, count, value, low_rank)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Gaussian:
    """Make the estimator; `moments` names another text, or `prompt`."""
    moments = None if spec["moments"] == "prompt" else fitted[spec["moments"]]
    if spec["covariance"] == "low_rank":
        return Gaussian(spec["name"], "full", spec["capped"], moments, spec["rank"])
    return Gaussian(spec["name"], spec["covariance"], spec["capped"], moments)


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head's summary that a query reads: means and the covariance's."""
    return head_dim * (1 + values) + _of_covariance(spec, head_dim)[0]


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: mean score and its variance; the mean value needs none."""
    return head_dim + _of_covariance(spec, head_dim)[1]


def _of_covariance(spec: Mapping[str, Any], head_dim: int) -> tuple[float, float]:
    """Numbers of the covariance, which is symmetric, and multiply-adds of the variance."""
    if spec["covariance"] == "low_rank":
        return (spec["rank"] + 1) * head_dim, spec["rank"] * (head_dim + 1) + 2 * head_dim
    full = head_dim * (head_dim + 1)
    return {"full": (full / 2, full), "diagonal": (head_dim, 2 * head_dim), "none": (0, 0)}[spec["covariance"]]
