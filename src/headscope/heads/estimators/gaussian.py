"""Gaussian scores: the bulk's log mass from the mean and covariance of its keys (arXiv 2502.09647, QAdA).

Reads about D^2 / 2 + D numbers a KV head and takes D^2 + 2 D multiply-adds a query ("diagonal": 2 D and 3 D),
whatever T is; D numbers more for the mean value.

Shapes: B rows, H query heads, K KV heads, Q queries, N keys, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk
from headscope.heads.mass import group_heads, precise
from headscope.heads.moments import Covariance, KeyMoments, gaussian_log_mass
from headscope.heads.to_device import to_device

PLAN = {
    "options": {
        "covariance": {
            "type": "str",
            "help": "covariance of the keys",
            "choices": ["full", "diagonal"],
            "default": "full",
        },
        "moments": {
            "type": "str",
            "help": "text whose keys the moments describe",
            "choices": ["prompt", "random_words", "prose"],
            "default": "prompt",
        },
    },
    "values": True,
}


@dataclass(frozen=True)
class GaussianSummary:
    """Summary of a layer's bulk.

    Attributes:
        moments: of the keys, or of another text's.
        count: bulk keys, which another text's moments do not tell.
        value: mean of the bulk's values, [K, D], float32 or better; zero without a key.
    """

    moments: KeyMoments
    count: int
    value: Tensor


@dataclass(frozen=True)
class Gaussian:
    """Log-normal mean of the bulk, and its mean value whatever the query.

    Attributes:
        name: how tables call it.
        covariance: "full" or "diagonal".
        moments: moments of another text by layer; None takes those of the prompt's own bulk.
    """

    joinable: ClassVar[bool] = True

    name: str
    covariance: Covariance = "full"
    moments: Mapping[int, KeyMoments] | None = None

    def summarise(self, bulk: Bulk) -> GaussianSummary:
        """Compute the moments of the bulk's keys, or take the other text's; the value is always the bulk's.

        Raises:
            ConfigError: KV heads have different numbers of keys.
        """
        if bulk.present is not None:
            raise ConfigError(f"estimator {self.name} needs as many outliers of each KV head; choose shared=0")
        keys = bulk.keys
        if self.moments is None:
            moments = KeyMoments.of(keys)
        else:
            moments = to_device(self.moments[bulk.cache.layer], keys.device)
        return GaussianSummary(moments, keys.shape[1], _mean(bulk.values))

    def update(self, summary: GaussianSummary, keys: Tensor, values: Tensor) -> GaussianSummary:
        """Add keys and values, [K, N, D]; exact, in any order. Another text's moments stay."""
        moments, count = summary.moments, summary.count + keys.shape[1]
        if self.moments is None:
            moments = moments.merge(KeyMoments.of(keys))
        share = keys.shape[1] / max(count, 1)
        return GaussianSummary(moments, count, summary.value + share * (_mean(values) - summary.value))

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the float32 numbers of a KV head's summary that a query reads, with those of its values or without."""
        covariance = head_dim if self.covariance == "diagonal" else head_dim * (head_dim + 1) / 2  # it is symmetric
        return head_dim * (1 + values) + covariance

    def log_mass(self, query: Tensor, summary: GaussianSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimate the bulk log mass, [B, H, Q], of the true number of keys, which is not that of the summary."""
        mean, variance = summary.moments.score_moments(query, scale, self.covariance)
        return gaussian_log_mass(mean, variance, bulk_size)

    def mass_and_value(
        self, query: Tensor, summary: GaussianSummary, bulk_size: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return the log mass, and the mean value, which is the same for every query, [B, H, Q, D]."""
        grouped = group_heads(query, summary.value.shape[0])
        value = summary.value[:, None, None].expand_as(grouped).flatten(1, 2)
        return self.log_mass(query, summary, bulk_size, scale), value


def _mean(values: Tensor) -> Tensor:
    """Average [K, N, D] over N; zero where N is."""
    return precise(values).sum(1) / max(values.shape[1], 1)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Gaussian:
    """Make the estimator; `moments` names another text, or `prompt`."""
    moments = None if spec["moments"] == "prompt" else fitted[spec["moments"]]
    return Gaussian(spec["name"], spec["covariance"], moments)
