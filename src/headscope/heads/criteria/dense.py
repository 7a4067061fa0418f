"""Every head reads the whole context: the ceiling."""

import torch
from torch import Tensor

from headscope.heads.criteria import Criterion
from headscope.heads.view import LayerView


class Dense(Criterion):
    """Calls every pair long."""

    fixed = True

    def margin(self, query: Tensor, view: LayerView) -> Tensor:
        """Return margins below any threshold, [B, H, Q]."""
        return torch.full_like(view.window_mass, -torch.inf)


CRITERION = Dense
