"""Random layers for the tests of what reads a bulk."""

from dataclasses import replace

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk, LayerCache, Probes

KV_HEADS, GROUP, DIM = 2, 3, 8
SCALE = DIM**-0.5


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(tokens: int, seed: int = 0, probes: int = 5, dtype: torch.dtype = torch.float64) -> LayerCache:
    keys, values = (draw(KV_HEADS, tokens, DIM, seed=seed + part, dtype=dtype) for part in (0, 1))
    found = None
    if probes:
        queries = draw(KV_HEADS * GROUP, probes, DIM, seed=seed + 2, dtype=dtype)
        found = Probes(queries, draw(KV_HEADS * GROUP, seed=seed + 3, dtype=dtype).abs())
    asked = draw(KV_HEADS * GROUP, 6, DIM, seed=seed + 4, dtype=dtype)
    return LayerCache(layer=1, keys=keys, values=values, scale=SCALE, probes=found, queries=asked)


def bulk(tokens: int = 60, first: int = 4, last: int = 50, **options) -> Bulk:
    return Bulk.between(layer(tokens, **options), first, last)


def of_head(bulk: Bulk, head: int) -> Bulk:
    """The same of one KV head and its group of query heads."""
    cache, one, group = bulk.cache, slice(head, head + 1), slice(head * GROUP, (head + 1) * GROUP)
    asked = Probes(cache.probes.queries[group], cache.probes.weight[group])
    narrow = replace(cache, keys=cache.keys[one], values=cache.values[one], probes=asked, queries=cache.queries[group])
    alone = Bulk(narrow, bulk.index[one])
    return alone if bulk.present is None else alone.where(bulk.present[one])


def queries(count: int = 7, rows: int = 2, seed: int = 9, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(rows, KV_HEADS * GROUP, count, DIM, seed=seed, dtype=dtype)


def exact(query: Tensor, found: Bulk) -> tuple[Tensor, Tensor]:
    """Log mass, [B, H, Q], and mean value, [B, H, Q, D], of a bulk, in float64 and one head at a time."""
    masses, values = [], []
    for head in range(query.shape[1]):
        scores = query[:, head].double() @ found.keys[head // GROUP].double().T * SCALE
        masses.append(scores.logsumexp(-1))
        values.append(scores.softmax(-1) @ found.values[head // GROUP].double())
    return torch.stack(masses, 1), torch.stack(values, 1)
