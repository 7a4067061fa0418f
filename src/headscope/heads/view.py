"""What a criterion may look at in one layer: attention over the window, and summaries of the bulk.

Shapes: B rows of one criterion, H query heads, K KV heads, Q queries, D head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

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
        summaries: of the layer's bulk.
        exact_mass: computes the log mass of the bulk, [B, H, Q]. It reads every key: only a reference may call it.
        exact_output: computes attention over the bulk alone, [B, H, Q, D], zero without a bulk; only for references.
    """

    layer: int
    scale: float
    kv_heads: int
    window_mass: Tensor
    window_output: Tensor
    outside: Tensor
    summaries: Summaries
    exact_mass: Callable[[], Tensor] = field(repr=False)
    exact_output: Callable[[], Tensor] = field(repr=False)

    def estimated_mass(self, estimator: Estimator, query: Tensor) -> Tensor:
        """Estimate the log mass of the bulk for queries [B, H, Q, D]: [B, H, Q]."""
        summaries, bulk_size = self.summaries, self.outside - self.summaries.outliers
        if summaries.rows is not None and bulk_size.ndim == 2:
            bulk_size = bulk_size.repeat(summaries.rows, 1)
        summary = summaries.of[estimator.name]
        return self._by_row(query, lambda queries: estimator.log_mass(queries, summary, bulk_size, self.scale))

    def estimated_output(self, estimator: ValueEstimator, query: Tensor) -> Tensor:
        """Estimate attention over the bulk alone for queries [B, H, Q, D]: [B, H, Q, D]."""
        summary = self.summaries.of[estimator.name]
        return self._by_row(query, lambda queries: estimator.value(queries, summary, self.scale))

    def _by_row(self, query: Tensor, estimate: Callable[[Tensor], Tensor]) -> Tensor:
        """Estimate for all rows; those with summaries of their own go as more heads of one row."""
        if self.summaries.rows is None:
            return estimate(query)
        estimates = estimate(query.flatten(0, 1)[None])[0]
        return estimates.view(*query.shape[:2], *estimates.shape[1:])
