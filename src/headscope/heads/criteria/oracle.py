"""The exact test: a head is local if its window holds a large enough share of the mass (arXiv 2502.09647).

It reads every key to decide, so it saves nothing: predictors are compared with it.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on"], "measures": "share"}


class Oracle(Criterion):
    """Calls a pair local if sigmoid(L_local - L_bulk) >= tau, one tau for all heads; thresholds are logits of tau."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return log-odds of the window's share, which do not saturate where a share nears 0 or 1, [B, H, Q]."""
        return view.window_mass - view.exact_mass()


CRITERION = Oracle
