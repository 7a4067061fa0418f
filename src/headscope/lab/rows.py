"""Rows of a batch, each of which decodes under a criterion at one target.

Shapes: B rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule
from headscope.heads.selectors import Selector
from headscope.heads.to_device import to_device


@dataclass(frozen=True)
class Rows:
    """Rows of one criterion, which differ in their targets.

    Attributes:
        criterion: labels them; it has a threshold for each.
        outliers: keys that belong to their window too.
        selector: chooses the bulk keys that a KV head reads; None: it reads all of them.
        budget: with a selector, the share of the KV bytes that each may read, float64 [B].
    """

    criterion: Criterion
    outliers: OutlierRule = NO_OUTLIERS
    selector: Selector | None = None
    budget: Tensor | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.criterion.thresholds)

    def take(self, rows: Tensor) -> "Rows":
        """Keep these of the rows (indices)."""
        budget = None if self.budget is None else self.budget[rows]
        return replace(self, criterion=self.criterion.take(rows), budget=budget)

    def on(self, device: torch.device) -> "Rows":
        """Move tensors to a device."""
        return replace(self, criterion=to_device(self.criterion, device), budget=to_device(self.budget, device))
