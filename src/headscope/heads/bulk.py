"""One layer as a boundary finds it: all keys so far, and the bulk among them that a summary stands for.

Shapes: H query heads, K KV heads, T keys, N bulk keys, M chosen keys, P probes, Q queries, D head_dim.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LAST_QUERIES = 32
"""Queries before the boundary that a rule may look at."""


@dataclass(frozen=True)
class Probes:
    """Queries of other prompts, which stand for those that will come; fitted once a model.

    Attributes:
        queries: as if they stood at the boundary (rotated to it), [H, P, D].
        weight: how much a value of the head counts in the layer's output, [H], not negative.
    """

    queries: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LayerCache:
    """What may be read of one layer at the boundary.

    Attributes:
        layer: index of the layer in the model.
        keys: rotated keys, [K, T, D].
        values: [K, T, D].
        scale: factor of the scores.
        probes: queries to expect, where the model was fitted with them.
        queries: the last rotated queries before the boundary, at most `LAST_QUERIES`, [H, Q, D].
        sliding: keys that a query of the layer may see at all; None: all of them.
        head: the KV head that is all it holds; None: it holds every one.
    """

    layer: int
    keys: Tensor
    values: Tensor
    scale: float = 1.0
    probes: Probes | None = None
    queries: Tensor | None = None
    sliding: int | None = None
    head: int | None = None


@dataclass(frozen=True)
class Bulk:
    """Some keys of each KV head of a layer, as many of each.

    Attributes:
        cache: the layer.
        index: their positions in the cache, ascending, [K, N].
    """

    cache: LayerCache
    index: Tensor

    @classmethod
    def between(cls, cache: LayerCache, first: int, last: int) -> "Bulk":
        """The keys first <= j < last of every KV head."""
        index = torch.arange(first, max(first, last), device=cache.keys.device)
        return cls(cache, index.expand(cache.keys.shape[0], -1))

    @property
    def keys(self) -> Tensor:
        """Rotated keys, [K, N, D]."""
        return _gather(self.cache.keys, self.index)

    @property
    def values(self) -> Tensor:
        """Values, [K, N, D]."""
        return _gather(self.cache.values, self.index)

    def of_head(self, head: int) -> "Bulk":
        """The same of one KV head and its group of query heads."""
        cache, one, groups = self.cache, slice(head, head + 1), self.cache.keys.shape[0]
        queries = None if cache.queries is None else cache.queries.chunk(groups)[head]
        probes = cache.probes
        if probes is not None:
            probes = Probes(probes.queries.chunk(groups)[head], probes.weight.chunk(groups)[head])
        narrow = replace(
            cache, head=head, keys=cache.keys[one], values=cache.values[one], probes=probes, queries=queries
        )
        return Bulk(narrow, self.index[one])

    def without(self, positions: Tensor) -> "Bulk":
        """The keys that are not at these positions of the cache, [K, M]; all of them must be in the bulk, once."""
        if not positions.shape[1]:
            return self
        kept = ~(self.index[:, :, None] == positions[:, None, :]).any(-1)
        return replace(self, index=self.index[kept].view(self.index.shape[0], -1))


def _gather(data: Tensor, index: Tensor) -> Tensor:
    return data.gather(1, index[:, :, None].expand(-1, -1, data.shape[2]))
