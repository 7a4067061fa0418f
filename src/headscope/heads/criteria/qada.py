"""QAdA: the oracle's test with the bulk's log mass estimated from a summary (arXiv 2502.09647).

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on", "estimator"], "measures": "share"}


class Qada(Criterion):
    """Calls a pair local if the window's share, by its exact mass and the bulk's estimated one, is at least tau."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return log-odds of the window's share by the estimate, [B, H, Q]."""
        assert self.estimator is not None
        return view.window_mass - view.estimated_mass(self.estimator, query)


CRITERION = Qada
