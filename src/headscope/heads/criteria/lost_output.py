"""Local iff little of the head's output would be lost: the bulk's share times how far its values are from the window's.

A head whose bulk holds much of the mass loses little if the bulk's values say what the window's say; the share alone
(the oracle, QAdA) cannot see that. Mass and mean value of the bulk are estimated, so its keys are not read. With an
output correction (headscope.heads.corrected) the margin is the same: it tells what a head without one would lose.

Shapes: B rows, L layers, H query heads, Q queries, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headscope.errors import ConfigError
from headscope.heads.calibration.maps import MarginMap
from headscope.heads.criteria import Selection, below, thresholds_of
from headscope.heads.estimators import Estimator, ValueEstimator
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on", "estimator"], "margins": "loss", "mapped": True}


@dataclass(frozen=True)
class LostOutput:
    """Local iff the estimated norm of what the head's output loses, calibrated for each head, is small enough.

    Attributes:
        thresholds: of the calibrated negative log of the norm, for each row, [B].
        estimator: of the bulk's log mass and mean value.
        map: calibrates each head's margin; by default it weighs the head.
    """

    thresholds: Tensor
    estimator: ValueEstimator
    map: MarginMap

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Negative log of the norm, calibrated, [B, H, Q]."""
        mass = view.estimated_mass(self.estimator, query)
        value = view.estimated_output(self.estimator, query)
        loss = log_lost_output(view.window_mass, view.window_output(), mass, value)
        return self.map.apply(view.layer, -loss)

    def select(self, query: Tensor, view: LayerView) -> Selection:
        """Label by the estimate; the bulk's keys are not read."""
        return Selection(below(self.margin(query, view), self.thresholds))

    def take(self, rows: Tensor) -> "LostOutput":
        """Keep these rows' thresholds."""
        return LostOutput(self.thresholds[rows], self.estimator, self.map)


def log_lost_output(window_mass: Tensor, window_output: Tensor, bulk_mass: Tensor, bulk_output: Tensor) -> Tensor:
    """Log norm of the difference between a head's whole output and its output over the window, [B, H, Q].

    The whole output is the mean of both sides by their masses, so that the difference is
    sigmoid(bulk_mass - window_mass) (bulk_output - window_output). Without a bulk it is -inf.

    Args:
        window_mass: log mass, [B, H, Q].
        window_output: attention over the window alone, [B, H, Q, D].
        bulk_mass: log mass, [B, H, Q].
        bulk_output: attention over the bulk alone, [B, H, Q, D].
    """
    distance = (bulk_output - window_output).norm(dim=-1).log()
    return torch.where(torch.isneginf(bulk_mass), -torch.inf, logsigmoid(bulk_mass - window_mass) + distance)


def build(targets: Sequence[Mapping[str, Any]], estimator: Estimator | None) -> LostOutput:
    """Make it from calibrated thresholds and the heads' map, which is the same for all targets.

    Raises:
        ConfigError: no estimator is named, or one that does not know the bulk's values.
    """
    if not isinstance(estimator, ValueEstimator):
        raise ConfigError("criterion kind lost_output needs an `estimator`; name one of conf/estimator")
    return LostOutput(thresholds_of(targets), estimator, MarginMap.of(targets[0]))
