"""Gaussian scores: the bulk's log mass from the mean and covariance of its keys (arXiv 2502.09647, QAdA).

Reads about D^2 / 2 + D numbers a KV head and takes D^2 + 2 D multiply-adds a query ("diagonal": 2 D and 3 D, "none":
D and D, "low_rank": (R + 2) D and (R + 3) D), whatever T is; D numbers more where values are asked for, and D^2 more of
both with the values' covariance with the keys. `update` merges whole covariances, which are kept aside.

Shapes: B rows, H query heads, K KV heads, Q queries, N bulk keys, R rank, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.moments import Covariance, KeyMoments, LowRank, frozen_tilt, gaussian_log_mass
from headscope.heads.value_moments import ValueMoments


@dataclass(frozen=True)
class GaussianSummary:
    """What is kept of a layer's bulk.

    Attributes:
        moments: of the keys.
        values: of the bulk itself, whose count another text's moments do not tell.
        low_rank: of the covariance, where a query reads no more of it.
    """

    moments: KeyMoments
    values: ValueMoments
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
        values: "mean" (the bulk's value whatever the query) or "covariance" (values vary with the keys).
    """

    name: str
    covariance: Covariance = "full"
    capped: bool = False
    moments: Mapping[int, KeyMoments] | None = None
    rank: int | None = None
    values: Literal["mean", "covariance"] = "mean"

    def summarise(self, bulk: Bulk) -> GaussianSummary:
        """Moments of the bulk's keys, or of the other text; the values are always the bulk's."""
        keys = bulk.keys
        if self.moments is None:
            moments = KeyMoments.of(keys)
        else:
            moments = self.moments[bulk.cache.layer].of_head(bulk.cache.head, keys.device)
        return self._summary(moments, self._of_values(keys, bulk.values))

    def update(self, summary: GaussianSummary, keys: Tensor, values: Tensor) -> GaussianSummary:
        """Add keys and values, [K, N, D]; exact, in any order. Another text's moments stay."""
        moments = summary.moments if self.moments is not None else summary.moments.merge(KeyMoments.of(keys))
        return self._summary(moments, summary.values.merge(self._of_values(keys, values)))

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the float32 numbers of a KV head's summary that a query reads, with those of its values or without."""
        return numbers(vars(self), head_dim, 0, values)

    def log_mass(self, query: Tensor, summary: GaussianSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count is the true one, not that of the summary."""
        mean, variance = summary.moments.score_moments(query, scale, summary.low_rank or self.covariance)
        return gaussian_log_mass(mean, variance, bulk_size, self.capped)

    def value(self, query: Tensor, summary: GaussianSummary, scale: float) -> Tensor:
        """Mean value under the query's attention, [B, H, Q, D]; "mean": the same for every query."""
        tilt = None
        if self.capped and self.values == "covariance":
            _, variance = summary.moments.score_moments(query, scale, summary.low_rank or self.covariance)
            tilt = frozen_tilt(variance, summary.values.count)
        return summary.values.attended(query, scale, tilt)

    def _of_values(self, keys: Tensor, values: Tensor) -> ValueMoments:
        return ValueMoments.of(keys, values, self.values == "covariance")

    def _summary(self, moments: KeyMoments, values: ValueMoments) -> GaussianSummary:
        low_rank = None if self.rank is None else LowRank.of(moments.covariance, self.rank)
        return GaussianSummary(moments, values, low_rank)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Gaussian:
    """Make the estimator; `moments` names another text, or `prompt`."""
    moments = None if spec["moments"] == "prompt" else fitted[spec["moments"]]
    name, covariance, capped, values = spec["name"], spec["covariance"], spec["capped"], spec.get("values", "mean")
    if covariance == "low_rank":
        return Gaussian(name, "full", capped, moments, spec["rank"], values)
    return Gaussian(name, covariance, capped, moments, values=values)


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head's summary that a query reads: means, the covariance's and the values' with the keys."""
    return head_dim * (1 + values) + _of_covariance(spec, head_dim)[0] + values * _of_values(spec, head_dim)


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: mean score, its variance and the move of the mean value, which itself needs none."""
    return head_dim + _of_covariance(spec, head_dim)[1] + values * _of_values(spec, head_dim)


def _of_values(spec: Mapping[str, Any], head_dim: int) -> int:
    """Numbers, and multiply-adds, of the values' covariance with the keys."""
    return head_dim**2 if spec.get("values") == "covariance" else 0


def _of_covariance(spec: Mapping[str, Any], head_dim: int) -> tuple[float, float]:
    """Numbers of the covariance, which is symmetric, and multiply-adds of the variance."""
    if spec["covariance"] == "low_rank":
        return (spec["rank"] + 1) * head_dim, spec["rank"] * (head_dim + 1) + 2 * head_dim
    full = head_dim * (head_dim + 1)
    return {"full": (full / 2, full), "diagonal": (head_dim, 2 * head_dim), "none": (0, 0)}[spec["covariance"]]
