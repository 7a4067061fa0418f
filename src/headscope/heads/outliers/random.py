"""A control: keys by chance, drawn for each layer and KV head.

Shapes: K KV heads, N bulk keys, T keys.
"""

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk


def importance(bulk: Bulk) -> Tensor:
    """A random number for each key, the same at every call, [K, N]."""
    generator = torch.Generator().manual_seed(bulk.cache.layer)
    drawn = torch.rand(bulk.cache.keys.shape[:2], generator=generator, dtype=torch.float64)
    return drawn.to(bulk.index.device).gather(1, bulk.index)
