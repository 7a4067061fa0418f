"""Rows of a batch, each of which decodes under a criterion at one target.

Shapes: B rows.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule
from headscope.heads.to_device import to_device


@dataclass(frozen=True)
class Rows:
    """Rows of one criterion, which differ in their targets.

    Attributes:
        criterion: labels them; it has a threshold for each.
        outliers: keys that belong to their window too.
    """

    criterion: Criterion
    outliers: OutlierRule = NO_OUTLIERS

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.criterion.thresholds)

    def take(self, rows: Tensor) -> "Rows":
        """Keep these of the rows (indices)."""
        return replace(self, criterion=self.criterion.take(rows))

    def on(self, device: torch.device) -> "Rows":
        """Move the criterion's tensors to a device."""
        return replace(self, criterion=to_device(self.criterion, device))
