"""The exact test: a head is local iff its window holds a large enough share of the mass.

Reads every key to decide, so it saves nothing: it is what predictors are compared with.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.criteria import Selection, below, thresholds_of
from headscope.heads.estimators import Estimator
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on"], "margins": "share"}


@dataclass(frozen=True)
class Oracle:
    """Local iff sigmoid(L_local - L_bulk) >= tau, one tau for all heads (arXiv 2502.09647).

    Attributes:
        thresholds: logit of tau for each row, [B].
    """

    thresholds: Tensor
    estimator: Estimator | None = None

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Log-odds of the window's share, which do not saturate where a share nears 0 or 1, [B, H, Q]."""
        return view.window_mass - view.bulk_mass()

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label by the exact masses."""
        return Selection(below(self.margin(query, view), self.thresholds))

    def take(self, rows: Tensor) -> "Oracle":
        """Keep these rows' thresholds."""
        return Oracle(self.thresholds[rows])


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Oracle:
    """Make it from calibrated thresholds."""
    return Oracle(thresholds_of(targets))
