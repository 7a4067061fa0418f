"""No head reads beyond its window: the floor.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.heads.criteria import Selection
from headscope.heads.estimators import Estimator
from headscope.heads.view import LayerView


@dataclass(frozen=True)
class Local:
    """All pairs are local."""

    estimator: Estimator | None = None

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label everything local."""
        return Selection(torch.zeros(query.shape[:3], dtype=torch.bool, device=query.device))

    def take(self, rows: Tensor) -> "Local":
        """All rows are alike."""
        return self


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Local:
    """Make it; there is nothing to calibrate."""
    return Local()
