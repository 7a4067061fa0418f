"""No head reads beyond its window: the floor."""

import torch
from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView


class Local(Criterion):
    """Calls every pair local."""

    fixed = True

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return margins above any threshold, [B, H, Q]."""
        return torch.full_like(view.window_mass, torch.inf)


CRITERION = Local
