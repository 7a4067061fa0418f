"""The exact loss of a head's output decides: the reference of `lost_output`, as the oracle is QAdA's.

It reads every key and value to decide, so it saves nothing.

Shapes: B rows, H query heads, Q queries, D head_dim.
"""

from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.criteria.lost_output import log_lost_output
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on"], "measures": "loss"}


class OracleOutput(Criterion):
    """Calls a pair local if the norm of what its head's output loses, weighted by the map, is small enough."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return minus the log of the norm, [B, H, Q]."""
        return -log_lost_output(view.window_mass, view.window_output, view.exact_mass(), view.exact_output())


CRITERION = OracleOutput
