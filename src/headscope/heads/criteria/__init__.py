"""Criteria: for each query, which heads read the long context. One file each, found by name.

Shapes: B rows of one criterion, H query heads, K KV heads, Q queries, T keys, D head_dim, L layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from headscope.heads.estimators import Estimator


@dataclass
class LayerView:
    """What a criterion may look at in one layer.

    Attributes:
        layer: index of the layer in the model.
        scale: factor of the scores.
        window_mass: log mass of the window, [B, H, Q].
        bulk_size: bulk keys of each query, [Q].
        summaries: each estimator's summary of this layer's bulk, by the estimator's name.
        exact: computes the true bulk log mass; only through `bulk_mass`, so that a peek is seen.
        peeked: set once `bulk_mass` was asked for.
    """

    layer: int
    scale: float
    window_mass: Tensor
    bulk_size: Tensor
    summaries: Mapping[str, Any]
    exact: Callable[[], Tensor] = field(repr=False)
    peeked: bool = False

    def bulk_mass(self) -> Tensor:
        """Exact log mass of the bulk, [B, H, Q]: reads every key, so only a reference may ask for it."""
        self.peeked = True
        return self.exact()


@dataclass(frozen=True)
class Selection:
    """A criterion's answer.

    Attributes:
        long: bool [B, H, Q]; True reads the bulk.
    """

    long: Tensor


class Criterion(Protocol):
    """Labels every (query, head) pair long or local, for one or several rows at once."""

    @property
    def estimator(self) -> Estimator | None:
        """The estimator whose summaries `select` needs."""

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label the queries [B, H, Q, D] of one layer."""

    def take(self, rows: Tensor) -> "Criterion":
        """The criterion for these of its rows (indices), after others have stopped."""


def share_below(local: Tensor, bulk: Tensor, thresholds: Tensor) -> Tensor:
    """True where the window's share of the mass is below the row's threshold: [B, H, Q].

    Shares are compared as log-odds, L_local - L_bulk, which do not saturate where a share nears 0 or 1. A NaN
    reads the bulk: an undecided head must not lose its context.

    Args:
        local: window log mass, [B, H, Q].
        bulk: exact or estimated bulk log mass, [B, H, Q].
        thresholds: log-odds, [B].
    """
    return ~(local - bulk >= thresholds.to(local.device)[:, None, None])


def build(spec: Mapping[str, Any], targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Criterion:
    """Make the criterion that a slice of the configuration names.

    Args:
        spec: `kind`, a module here, and the options of that module.
        targets: what calibration found, one entry a row: a `threshold` in log-odds or the labels `long` of `layers`.
        estimator: the estimator the slice names.
    """
    module = import_module(f"{__name__}.{spec['kind']}")
    criterion: Criterion = module.build(targets, estimator)
    return criterion


def thresholds_of(targets: Sequence[Mapping[str, Any]]) -> Tensor:
    """Stack the rows' thresholds, [B], float64."""
    return torch.tensor([target["threshold"] for target in targets], dtype=torch.float64)
