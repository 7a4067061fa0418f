"""The exact loss of a head's output decides: the reference of `lost_output`, as the oracle is QAdA's.

Reads every key and value to decide, so it saves nothing.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.calibration.maps import MarginMap
from headscope.heads.criteria import Selection, below, thresholds_of
from headscope.heads.criteria.lost_output import log_lost_output
from headscope.heads.estimators import Estimator
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on"], "margins": "loss", "mapped": True}


@dataclass(frozen=True)
class OracleOutput:
    """Local iff the norm of what the head's output loses, calibrated for each head, is small enough.

    Attributes:
        thresholds: of the calibrated negative log of the norm, for each row, [B].
        map: calibrates each head's margin; by default it weighs the head.
    """

    thresholds: Tensor
    map: MarginMap
    estimator: Estimator | None = None

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Negative log of the norm, calibrated, [B, H, Q]."""
        loss = log_lost_output(view.window_mass, view.window_output(), view.bulk_mass(), view.bulk_output())
        return self.map.apply(view.layer, -loss)

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label by the exact loss."""
        return Selection(below(self.margin(query, view), self.thresholds))

    def take(self, rows: Tensor) -> "OracleOutput":
        """Keep these rows' thresholds."""
        return OracleOutput(self.thresholds[rows], self.map)


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> OracleOutput:
    """Make it from calibrated thresholds and the heads' map."""
    return OracleOutput(thresholds_of(targets), MarginMap.of(targets[0]))
