"""QAdA: the oracle's test with the bulk's log mass estimated from a summary (arXiv 2502.09647).

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.calibration.maps import MarginMap
from headscope.heads.criteria import Selection, below, thresholds_of
from headscope.heads.estimators import Estimator
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on", "estimator"], "margins": "share", "mapped": True}


@dataclass(frozen=True)
class Qada:
    """Local iff the window's share of exact window mass and estimated bulk mass is at least tau.

    Attributes:
        thresholds: logit of tau for each row, [B]; in the calibrated margin's unit if there is a map.
        estimator: of the bulk's log mass.
        map: calibrates each head's margin.
    """

    thresholds: Tensor
    estimator: Estimator
    map: MarginMap

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Log-odds of the window's share by the estimate, calibrated, [B, H, Q]."""
        log_odds = view.window_mass - view.estimated_mass(self.estimator, query)
        return self.map.apply(view.layer, log_odds)

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label by the estimate; the bulk's keys are not read."""
        return Selection(below(self.margin(query, view), self.thresholds))

    def take(self, rows: Tensor) -> "Qada":
        """Keep these rows' thresholds."""
        return Qada(self.thresholds[rows], self.estimator, self.map)


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> Qada:
    """Make it from calibrated thresholds and the heads' map, which is the same for all targets.

    Raises:
        ConfigError: no estimator is named.
    """
    if estimator is None:
        raise ConfigError("criterion kind qada needs `estimator`; name one of conf/estimator")
    return Qada(thresholds_of(targets), estimator, MarginMap.of(targets[0]))
