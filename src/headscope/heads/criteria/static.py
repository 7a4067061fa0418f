"""One label a head, whatever the query: the share of long labels that the oracle gave it decides.

Shapes: B rows, L layers, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on"], "ranked_by": "oracle"}


@dataclass(frozen=True)
class Static(Criterion):
    """Calls heads long that are ranked first by the mean oracle label over calibration prompts.

    Attributes:
        long: labels of each full-attention layer by its index, bool [B, H].
    """

    fixed = True

    long: Mapping[int, Tensor] = field(default_factory=dict)

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return -inf for the heads that are long and +inf for the others, [B, H, Q]."""
        labels = self.long[view.layer].to(query.device)[:, :, None]
        return torch.where(labels, -torch.inf, torch.inf).to(view.window_mass).expand_as(view.window_mass)

    def take(self, rows: Tensor) -> Self:
        """Keep the labels of these rows."""
        return replace(super().take(rows), long={layer: labels[rows] for layer, labels in self.long.items()})

    @classmethod
    def calibrated(cls, targets: Sequence[Mapping[str, Any]], **options: Any) -> Self:
        """Make it from rankings: each target has `layers` and their labels `long`, [L, H]."""
        labels = torch.tensor([target["long"] for target in targets], dtype=torch.bool)
        by_layer = {layer: labels[:, index] for index, layer in enumerate(targets[0]["layers"])}
        return cls(torch.zeros(len(targets), dtype=torch.float64), long=by_layer, **options)


CRITERION = Static
