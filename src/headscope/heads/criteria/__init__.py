"""Criteria: for each query, which heads read the long context. One file each, found by name.

Shapes: B rows of one criterion, H query heads, K KV heads, Q queries, T keys, D head_dim, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from headscope.heads import registry
from headscope.heads.estimators import Estimator
from headscope.heads.view import LayerView


@dataclass(frozen=True)
class Correction:
    """What a local pair is given instead of its bulk.

    Attributes:
        value: estimated attention over the bulk alone, [B, H, Q, D].
        log_mass: estimated log mass of the bulk, [B, H, Q]; -inf where there is none.
    """

    value: Tensor
    log_mass: Tensor

    def merged(self, output: Tensor, log_mass: Tensor) -> Tensor:
        """Mean of both sides by their masses, [B, H, Q, D]; the output itself where there is no bulk.

        Args:
            output: attention over the window, [B, H, Q, D].
            log_mass: of the window, [B, H, Q].
        """
        share = (self.log_mass - log_mass).sigmoid()[..., None]
        return torch.lerp(output, self.value.to(output.dtype), share.to(output.dtype))


@dataclass(frozen=True)
class Selection:
    """A criterion's answer.

    Attributes:
        long: bool [B, H, Q]; True reads the bulk.
        correction: what local pairs are given for it; None drops it.
    """

    long: Tensor
    correction: Correction | None = None


class Criterion(Protocol):
    """Labels every (query, head) pair long or local, for one or several rows at once."""

    @property
    def estimator(self) -> Estimator | None:
        """The estimator whose summaries `select` needs."""

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label the queries [B, H, Q, D] of one layer."""

    def take(self, rows: Tensor) -> "Criterion":
        """The criterion for these of its rows (indices), after others have stopped."""


@runtime_checkable
class MarginCriterion(Criterion, Protocol):
    """Labels by one number a pair, which calibration fits thresholds to."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """How well each pair can do with its window, [B, H, Q]; local iff it reaches the row's threshold."""


def below(margin: Tensor, thresholds: Tensor) -> Tensor:
    """True where a pair's margin for being local is below the row's threshold: [B, H, Q].

    A NaN reads the bulk: an undecided head must not lose its context. An empty bulk has the margin +inf.

    Args:
        margin: larger where the head can do with its window, [B, H, Q].
        thresholds: in the margin's unit, [B].
    """
    return ~(margin >= thresholds.to(margin.device)[:, None, None])


def build(spec: Mapping[str, Any], targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Criterion:
    """Make the criterion that a slice of the configuration names.

    Args:
        spec: `kind`, a module here; `correction` where local pairs are given the bulk's estimated output.
        targets: what calibration found, one entry a row: a `threshold` of the margin, calibrated by a `map` where
            there is one, or the labels `long` of `layers`.
        estimator: the estimator the slice names.

    Raises:
        ConfigError: the criterion needs an estimator that it was not given.
    """
    module = registry.load("criteria", spec["kind"])
    criterion: Criterion = module.build(targets, estimator)
    if not spec.get("correction"):
        return criterion
    corrected: Criterion = import_module("headscope.heads.corrected").build(criterion)
    return corrected


def thresholds_of(targets: Sequence[Mapping[str, Any]]) -> Tensor:
    """Stack the rows' thresholds, [B], float64."""
    return torch.tensor([target["threshold"] for target in targets], dtype=torch.float64)
