"""One layer at the boundary: all keys so far, and the bulk among them, which a summary describes.

Shapes: H query heads, K KV heads, T keys, N bulk keys, M chosen keys, P probes, Q queries, D head_dim.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LAST_QUERIES = 32
"""Queries before the boundary that a rule may look at."""


@dataclass(frozen=True)
class Probes:
    """Queries of other prompts, which stand for queries to come; fitted once for a model.

    Attributes:
        queries: as if they stood at the boundary (rotated to it), [H, P, D].
        weight: how much a value of the head counts in the layer's output, [H], not negative.
    """

    queries: Tensor
    weight: Tensor


@dataclass(frozen=True)
class LayerCache:
    """Keys, values and queries of one layer at the boundary.

    Attributes:
        layer: index of the layer in the model.
        keys: rotated keys, [K, T, D].
        values: [K, T, D].
        scale: factor of the scores.
        probes: queries to expect; None if the model was fitted without.
        queries: the last rotated queries before the boundary, at most `LAST_QUERIES`, [H, Q, D].
        sliding: keys that a query of the layer may see at all; None: all of them.
    """

    layer: int
    keys: Tensor
    values: Tensor
    scale: float = 1.0
    probes: Probes | None = None
    queries: Tensor | None = None
    sliding: int | None = None


@dataclass(frozen=True)
class Bulk:
    """Keys of a layer outside the window, as many or different numbers of each KV head.

    Attributes:
        cache: the layer.
        index: positions in the cache, ascending, [K, N]; a KV head with fewer than N keys has any numbers at the end.
        present: which of the N are keys, the first ones of each KV head, bool [K, N]; None: every KV head has N.
    """

    cache: LayerCache
    index: Tensor
    present: Tensor | None = None

    @classmethod
    def between(cls, cache: LayerCache, first: int, last: int) -> "Bulk":
        """Take the keys first <= j < last of every KV head."""
        index = torch.arange(first, max(first, last), device=cache.keys.device)
        return cls(cache, index.expand(cache.keys.shape[0], -1))

    @property
    def keys(self) -> Tensor:
        """Rotated keys, [K, N, D]; zeros at the end of a KV head with fewer."""
        return self._vectors(self.cache.keys)

    @property
    def values(self) -> Tensor:
        """Values, [K, N, D]; zeros likewise."""
        return self._vectors(self.cache.values)

    @property
    def count(self) -> Tensor:
        """Number of keys of each KV head, [K]."""
        if self.present is None:
            return self.index.new_full(self.index.shape[:1], self.index.shape[1])
        return self.present.sum(1)

    def where(self, picked: Tensor) -> "Bulk":
        """Take the picked keys, bool [K, N], of a bulk with N keys of each KV head; their numbers may differ then."""
        count = picked.sum(1)
        least, most = torch.stack(count.aminmax()).tolist()
        if least == picked.shape[1]:
            return self
        place = (picked.cumsum(1) - 1).masked_fill(~picked, most)
        index = self.index.new_zeros(len(count), most + 1).scatter(1, place, self.index)[:, :most]
        present = None if least == most else torch.arange(most, device=index.device) < count[:, None]
        return replace(self, index=index, present=present)

    def _vectors(self, data: Tensor) -> Tensor:
        # By whole rows, which is many times faster than a gather of numbers.
        first = torch.arange(len(data), device=data.device)[:, None] * data.shape[1]
        vectors = data.flatten(0, 1).index_select(0, (self.index + first).flatten())
        vectors = vectors.view(*self.index.shape, data.shape[2])
        return vectors if self.present is None else vectors.masked_fill(~self.present[:, :, None], 0)
