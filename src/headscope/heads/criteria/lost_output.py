"""A head is local if little of its output would be lost: the bulk's share times the distance of both sides' values.

A head whose bulk holds much of the mass loses little if the bulk's values say what the window's say; the share alone
(the oracle, QAdA) cannot see that. Mass and mean value of the bulk are estimated, so its keys are not read.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headscope.heads.criteria import Criterion
from headscope.heads.estimators import ValueEstimator
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on", "estimator"], "measures": "loss"}


class LostOutput(Criterion):
    """Calls a pair local if the estimated norm of what its head's output loses is small enough."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return minus the log of the norm, [B, H, Q]."""
        assert isinstance(self.estimator, ValueEstimator)
        mass, output = view.estimated(self.estimator, query)
        return -log_lost_output(view.window_mass, view.window_output, mass, output)


def log_lost_output(window_mass: Tensor, window_output: Tensor, bulk_mass: Tensor, bulk_output: Tensor) -> Tensor:
    """Return the log norm of the difference between a head's whole output and its output over the window, [B, H, Q].

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


CRITERION = LostOutput
