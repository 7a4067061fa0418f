"""A cache that writes new keys behind the old ones, where transformers' own copies all keys for every token.

Shapes: R rows, K KV heads, S keys so far, D head_dim.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values at the start of tensors with room for as many more."""

    keys: Tensor
    values: Tensor
    _room: tuple[Tensor, ...] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values; return all of them, [R, K, S, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        if self._room is None or after > self._room[0].shape[2]:
            self._room = tuple(x.new_empty(*x.shape[:2], 2 * after, x.shape[3]) for x in (key_states, value_states))
            if before:
                for room, old in zip(self._room, (self.keys, self.values), strict=True):
                    room[:, :, :before] = old
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self._room)
        return self.keys, self.values

    def reserve(self, more: int) -> tuple[Tensor, ...]:
        """Make room for so many more keys and values; return all of it, [R, K, S + more, D] each, for who writes there.

        It has zeros, not memory as it was: a key that a query does not see counts nothing only while it is a number.
        """
        self._room = tuple(pad(x, (0, 0, 0, more)) for x in (self.keys, self.values))
        self.extend(0)
        return self._room

    def extend(self, new: int) -> None:
        """Take in so many keys and values that were written into the room behind the present ones."""
        assert self._room is not None
        after = self.get_seq_length() + new
        self.keys, self.values = (room[:, :, :after] for room in self._room)

    def release(self) -> None:
        """Let go of the memory: the keys are elsewhere now."""
        self.keys = self.values = self.keys.new_empty(0)
        self._room = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these of the rows."""
        super().batch_select_indices(indices)
        self._room = None


def own_cache() -> DynamicCache:
    """Return a cache for the rows' own keys; without a config it keeps all keys of sliding layers too."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


def one_cache(caches: Sequence[DynamicCache], join: Callable[[list[Tensor]], Tensor]) -> tuple[DynamicCache, list[int]]:
    """Move caches of rows into one, layer by layer; return it, and how many unused keys stand in front of each's own.

    With them all are as long.
    """
    lengths = [cache.get_seq_length() for cache in caches]
    unused = [max(lengths) - length for length in lengths]
    if len(caches) == 1:
        return caches[0], unused
    result = own_cache()
    for index, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        parts = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
        padded = ([pad(x, (0, 0, n, 0)) for x, n in zip(tensors, unused, strict=True)] for tensors in parts)
        result.update(*map(join, padded), index)
        for layer in layers:
            layer.release()
    return result, unused
