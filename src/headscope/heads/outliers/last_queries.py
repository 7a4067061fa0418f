"""A control: keys that the context's own last queries attend to, with their neighbours (SnapKV, arXiv 2404.14469).

Those queries stand before the question.

Shapes: K KV heads, G query heads a KV head, N bulk keys, T keys, Q queries.
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from headscope.heads.bulk import Bulk

NEIGHBOURS = 7
"""Width of the pooling over positions, so that a key comes with the context around it."""


def importance(bulk: Bulk) -> Tensor:
    """Sum the attention of the group's heads over the queries and pool it over positions, [K, N]."""
    cache = bulk.cache
    assert cache.queries is not None, "the prefill records them"
    keys, count = cache.keys.float(), cache.queries.shape[1]
    queries = cache.queries.float().view(len(keys), -1, *cache.queries.shape[1:])
    scores = torch.einsum("kgqd,ktd->kgqt", queries, keys) * cache.scale
    position = torch.arange(keys.shape[1], device=keys.device)
    visible = position <= position[-count:, None]
    attention = scores.masked_fill(~visible, -torch.inf).softmax(-1).sum((1, 2))
    pooled: Tensor = max_pool1d(attention[:, None], NEIGHBOURS, stride=1, padding=NEIGHBOURS // 2)[:, 0]
    return pooled.gather(1, bulk.index)
