"""Log mass of a bulk whose keys all have the score of their mean, times a factor."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import group_heads, precise

PLAN = {"options": {"factor": {"type": "float", "help": "of the mean's score", "low": 0.0, "default": 1.0}}}


@dataclass(frozen=True)
class Centre:
    """Summarises keys by their mean, [K, D]."""

    name: str
    factor: float

    def summarise(self, bulk: Bulk) -> Tensor:
        """Return the mean key."""
        keys = precise(bulk.keys)
        return keys.sum(1) / max(keys.shape[1], 1)

    def update(self, summary: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Leave the mean as it is."""
        return summary

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the numbers that a query reads."""
        return head_dim

    def log_mass(self, query: Tensor, summary: Tensor, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimate the log mass, [B, H, Q]."""
        scores = (group_heads(precise(query), len(summary)) @ summary[:, None, :, None])[..., 0].flatten(1, 2)
        return self.factor * scale * scores + bulk_size.to(scores.dtype).log()


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Centre:
    """Make the estimator."""
    return Centre(spec["name"], spec["factor"])
