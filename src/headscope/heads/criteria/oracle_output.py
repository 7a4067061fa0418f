"""The exact loss of a head's output decides: the reference of `lost_output`, as the oracle is QAdA's.

Reads every key and value to decide, so it saves nothing.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.criteria import LayerView, Selection, below, thresholds_of
from headscope.heads.criteria.lost_output import log_lost_output, weights_of
from headscope.heads.estimators import Estimator


@dataclass(frozen=True)
class OracleOutput:
    """Local iff the norm of what the head's output loses, times the head's weight, is small enough.

    Attributes:
        thresholds: of the negative log of the weighted norm, for each row, [B].
        weights: log weight of each head, by layer, [H].
    """

    thresholds: Tensor
    weights: Mapping[int, Tensor]
    estimator: Estimator | None = None

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Negative log of the weighted norm, [B, H, Q]."""
        loss = log_lost_output(view.window_mass, view.window_output(), view.bulk_mass(), view.bulk_output())
        return -loss - self.weights[view.layer].to(loss.device)[:, None]

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label by the exact loss."""
        return Selection(below(self.margin(query, view), self.thresholds))

    def take(self, rows: Tensor) -> "OracleOutput":
        """Keep these rows' thresholds."""
        return OracleOutput(self.thresholds[rows], self.weights)


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> OracleOutput:
    """Make it from calibrated thresholds and the heads' weights."""
    return OracleOutput(thresholds_of(targets), weights_of(targets[0]))
