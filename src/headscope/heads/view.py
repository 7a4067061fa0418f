"""What a criterion may look at in one layer: attention over the window, and summaries of the bulk.

Shapes: B rows of one criterion, H query heads, K KV heads, Q queries, D head_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

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
        outside: keys of each query outside the plain window, outliers among them, [Q]; [B, 1, Q] where rows differ.
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
        return estimator.log_mass(*self._arguments(estimator, query)).reshape(query.shape[:3])

    def estimated(self, estimator: ValueEstimator, query: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the log mass of the bulk, and attention over it alone, [B, H, Q, D], for queries [B, H, Q, D]."""
        mass, output = estimator.mass_and_value(*self._arguments(estimator, query))
        return mass.reshape(query.shape[:3]), output.reshape(query.shape)

    def _arguments(self, estimator: Estimator, query: Tensor) -> tuple[Tensor, Any, Tensor, float]:
        """Return what an estimator needs; rows with summaries of their own go as more heads of fewer rows."""
        sets, bulk_size = self.summaries.sets, self.outside
        heads = sets * query.shape[1]
        if bulk_size.ndim == 3:
            bulk_size = bulk_size[:sets].expand(-1, query.shape[1], -1).flatten(0, 1)
        bulk_size = bulk_size - self.summaries.outliers
        if bulk_size.ndim == 2 and len(bulk_size) < heads:
            bulk_size = bulk_size.repeat(heads // len(bulk_size), 1)
        grouped = query.reshape(-1, heads, *query.shape[2:])
        return grouped, self.summaries.of[estimator.name], bulk_size, self.scale
