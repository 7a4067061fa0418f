"""A control: keys that the context's own last queries attend to, with their neighbours (SnapKV, arXiv 2404.14469).

Those queries have not seen the question.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, T keys, Q queries.
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from headscope.heads.bulk import Bulk

NEIGHBOURS = 7
"""Width of the pooling over positions, which keeps the context of a key that is attended to."""


def importance(bulk: Bulk) -> Tensor:
    """Attention of the group's heads, summed over the queries and pooled over positions, [K, N]."""
    cache = bulk.cache
    assert cache.queries is not None, "the prefill keeps them"
    keys, count = cache.keys.float(), cache.queries.shape[1]
    queries = cache.queries.float().view(len(keys), -1, *cache.queries.shape[1:])
    scores = torch.einsum("kgqd,ktd->kgqt", queries, keys) * cache.scale
    position = torch.arange(keys.shape[1], device=keys.device)
    visible = position <= position[-count:, None]
    attention = scores.masked_fill(~visible, -torch.inf).softmax(-1).sum((1, 2))
    pooled: Tensor = max_pool1d(attention[:, None], NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)[:, 0]
    return pooled.gather(1, bulk.index)
