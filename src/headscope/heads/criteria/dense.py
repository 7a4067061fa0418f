"""Every head reads the whole context: the ceiling.

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
class Dense:
    """All pairs are long."""

    estimator: Estimator | None = None

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label everything long."""
        return Selection(torch.ones(query.shape[:3], dtype=torch.bool, device=query.device))

    def take(self, rows: Tensor) -> "Dense":
        """All rows are alike."""
        return self


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Dense:
    """Make it; there is nothing to calibrate."""
    return Dense()
