"""Estimators of the bulk's log mass, and of its mean value, from a summary of its keys. One file each, by name.

Shapes: B rows, H query heads, K KV heads, Q queries, N tokens, D head_dim.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from headscope.heads import registry
from headscope.heads.bulk import Bulk


class Estimator(Protocol):
    """Estimates the log mass of bulk keys from a summary of them.

    One with `joinable = True` lets summaries of several prompts lie one after the other, as those of more KV heads:
    `bulk_size` is by head then, and what is no tensor may be lost.
    """

    name: str

    def summarise(self, bulk: Bulk) -> Any:
        """Summarise a layer's bulk, once, at the boundary.

        Raises:
            ConfigError: KV heads have different numbers of keys, which the estimator does not serve (`ragged`).
        """

    def update(self, summary: Any, keys: Tensor, values: Tensor) -> Any:
        """Add tokens that leave the window, rotated keys and values [K, N, D]; the given summary stays as it is."""

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the float32 numbers of a KV head's summary that a query reads, with those of its values or without."""

    def log_mass(self, query: Tensor, summary: Any, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimate logsumexp of the scores of `bulk_size` keys, [Q] or [H, Q], for queries [B, H, Q, D]: [B, H, Q]."""


@runtime_checkable
class ValueEstimator(Estimator, Protocol):
    """Knows what the bulk would bring too."""

    def mass_and_value(self, query: Tensor, summary: Any, bulk_size: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Estimate the log mass and the attention's output over the bulk alone, [B, H, Q, D], for each query."""


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Estimator:
    """Make the estimator that a slice of the configuration names.

    Args:
        spec: `kind`, `name` and the options that the kind declares.
        fitted: what was computed before the run, by name (moments of other texts: `random_words`, ...).
    """
    estimator: Estimator = registry.load("estimators", spec["kind"]).build(spec, fitted)
    return estimator
