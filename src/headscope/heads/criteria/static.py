"""One label a head, whatever the query: the share of long labels that the oracle gave it decides.

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

PLAN = {"needs": ["calibrated_on"], "ranked_by": "oracle"}


@dataclass(frozen=True)
class Static:
    """Labels ranked by the mean oracle label over calibration prompts.

    Attributes:
        long: labels of each full-attention layer by its index, bool [B, H].
    """

    long: Mapping[int, Tensor]
    estimator: Estimator | None = None

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Give every query the label of its head."""
        labels = self.long[view.layer].to(query.device)
        return Selection(labels[:, :, None].expand(query.shape[:3]))

    def take(self, rows: Tensor) -> "Static":
        """Keep these rows' labels."""
        return Static({layer: labels[rows] for layer, labels in self.long.items()})


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Static:
    """Make it from calibrated rankings: each target has `layers` and their labels `long`, [L, H]."""
    labels = torch.tensor([target["long"] for target in targets], dtype=torch.bool)
    return Static({layer: labels[:, index] for index, layer in enumerate(targets[0]["layers"])})
