"""A head is local if its window holds more of the mass, by an estimate, than a threshold in nats."""

from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView

PLAN = {"needs": ["calibrated_on", "estimator"], "measures": "own"}


class Doubled(Criterion):
    """Calls a pair local by twice the difference of both log masses."""

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return twice the difference, [B, H, Q]."""
        assert self.estimator is not None
        return 2 * (view.window_mass - view.estimated_mass(self.estimator, query))


CRITERION = Doubled
