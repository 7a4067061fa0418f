"""What a criterion may look at in one layer: attention over the window, and summaries of the bulk.

Shapes: B rows of one criterion, H query heads, h of them served by one summary, K KV heads, Q queries, D head_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headscope.heads.boundary_state import Summaries
from headscope.heads.estimators import Estimator, ValueEstimator


@dataclass(frozen=True)
class LayerView:
    """Attention of some queries over their windows, and what stands for their bulks.

    The window of a row may hold outlier keys; the bulk is all that is left.

    Attributes:
        layer: index of the layer in the model.
        scale: factor of the scores.
        kv_heads: K.
        window_mass: log mass of the window, [B, H, Q].
        window_output: attention over the window alone, which is what a local head gives, [B, H, Q, D].
        outside: keys of each query outside the plain window, outliers among them, [Q].
        summaries: of the layer's bulk, of one part of the heads after the other.
        exact_mass: computes the log mass of the bulk, [B, H, Q]. It reads every key: only a reference may call it.
        exact_output: computes attention over the bulk alone, [B, H, Q, D], zero without a bulk; only for references.
    """

    layer: int
    scale: float
    kv_heads: int
    window_mass: Tensor
    window_output: Tensor
    outside: Tensor
    summaries: Sequence[Summaries]
    exact_mass: Callable[[], Tensor] = field(repr=False)
    exact_output: Callable[[], Tensor] = field(repr=False)

    def estimated_mass(self, estimator: Estimator, query: Tensor) -> Tensor:
        """Estimate the log mass of the bulk for queries [B, H, Q, D]: [B, H, Q]."""

        def log_mass(part: Summaries, queries: Tensor) -> Tensor:
            bulk_size = self.outside - part.outliers
            if part.rows is not None and bulk_size.ndim == 2:
                bulk_size = bulk_size.repeat(part.rows, 1)
            return estimator.log_mass(queries, part.of[estimator.name], bulk_size, self.scale)

        return self._by_part(query, log_mass)

    def estimated_output(self, estimator: ValueEstimator, query: Tensor) -> Tensor:
        """Estimate attention over the bulk alone for queries [B, H, Q, D]: [B, H, Q, D]."""
        return self._by_part(query, lambda part, q: estimator.value(q, part.of[estimator.name], self.scale))

    def _by_part(self, query: Tensor, estimate: Callable[[Summaries, Tensor], Tensor]) -> Tensor:
        """Estimate for each part of the heads and put the results side by side; rows of their own go as more heads."""
        results = []
        for part in self.summaries:
            queries = query[:, part.heads]
            if part.rows is None:
                results.append(estimate(part, queries))
            else:
                estimates = estimate(part, queries.flatten(0, 1)[None])[0]
                results.append(estimates.view(*queries.shape[:2], *estimates.shape[1:]))
        return torch.cat(results, 1)
