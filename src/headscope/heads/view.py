"""What a criterion may look at in one layer; whether it read the bulk's keys is seen.

Shapes: B rows of one criterion, H query heads, Q queries, D head_dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from headscope.heads.estimators import Estimator, ValueEstimator


@dataclass(frozen=True)
class Summaries:
    """Summaries of some heads of a layer.

    Attributes:
        heads: the query heads.
        outliers: how many the window of each head holds, one number or [h, 1]; all of them are outside the plain window
            of every query from the boundary on.
        of: each estimator's summary of the others, by the estimator's name.
    """

    heads: slice
    outliers: int | Tensor
    of: Mapping[str, Any]


@dataclass
class LayerView:
    """What a criterion may look at in one layer.

    The window of a row may hold outlier keys too; the bulk is what is left.

    Attributes:
        layer: index of the layer in the model.
        scale: factor of the scores.
        outside: keys of each query outside the plain window, outliers among them, [Q].
        summaries: of the layer's bulk, of one part of the heads after the other.
        measure_window: computes the log mass of the window; through `window_mass`, once.
        attend_window: computes the attention's output over the window alone: what a local head gives.
        exact_mass: computes the true bulk log mass; only through `bulk_mass`, so that a peek is seen.
        exact_output: computes the attention's output over the bulk alone; only through `bulk_output`.
        peeked: set once the bulk's keys were asked for.
    """

    layer: int
    scale: float
    outside: Tensor
    summaries: Sequence[Summaries]
    measure_window: Callable[[], Tensor] = field(repr=False)
    attend_window: Callable[[], Tensor] = field(repr=False)
    exact_mass: Callable[[], Tensor] = field(repr=False)
    exact_output: Callable[[], Tensor] = field(repr=False)
    peeked: bool = False

    @cached_property
    def window_mass(self) -> Tensor:
        """Log mass of the window, [B, H, Q]."""
        return self.measure_window()

    def window_output(self) -> Tensor:
        """Attention over the window alone, [B, H, Q, D]."""
        return self.attend_window()

    def estimated_mass(self, estimator: Estimator, query: Tensor) -> Tensor:
        """Log mass of the bulk by an estimate, for the queries [B, H, Q, D]: [B, H, Q]."""
        parts = []
        for part in self.summaries:
            bulk_size = self.outside - part.outliers
            parts.append(estimator.log_mass(query[:, part.heads], part.of[estimator.name], bulk_size, self.scale))
        return torch.cat(parts, 1)

    def estimated_output(self, estimator: ValueEstimator, query: Tensor) -> Tensor:
        """Attention over the bulk alone by an estimate, for the queries [B, H, Q, D]: [B, H, Q, D]."""
        parts = [estimator.value(query[:, part.heads], part.of[estimator.name], self.scale) for part in self.summaries]
        return torch.cat(parts, 1)

    def bulk_mass(self) -> Tensor:
        """Exact log mass of the bulk, [B, H, Q]: reads every key, so only a reference may ask for it."""
        self.peeked = True
        return self.exact_mass()

    def bulk_output(self) -> Tensor:
        """Exact attention over the bulk alone, [B, H, Q, D]; zero without a bulk. Only a reference may ask for it."""
        self.peeked = True
        return self.exact_output()
