"""What is read of the caches and masks that users of transformers bring: keys in one piece, padding on the left.

Shapes: B rows, K KV heads, T keys that a cache can hold, D head_dim.
"""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from headscope.errors import UnsupportedModelError
from headscope.inference.boundary import Pair
from headscope.models.geometry import FULL


def pairs(cache: Any, layers: tuple[int, ...]) -> dict[int, Pair]:
    """Keys and values of some layers.

    Raises:
        UnsupportedModelError: the cache does not hold them as they are, in one piece, where they are used, or a forward
            that failed left some layers with more keys than others.
    """
    found = dict(enumerate(cache.layers))
    kinds = {type(found.get(layer)) for layer in layers}
    if cache.offloading or not all(_holds_all(found.get(layer)) for layer in layers):
        held = "offloaded layers" if cache.offloading else ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UnsupportedModelError(
            f"a {type(cache).__name__} of {held} is not served; use cache_implementation='dynamic' or 'static'"
        )
    lengths = {int(cache.get_seq_length(layer)) for layer in layers}
    if len(lengths) > 1:
        raise UnsupportedModelError(
            f"layers of the cache hold {sorted(lengths)} keys, as a forward that failed leaves them; use a new cache"
        )
    return {layer: (found[layer].keys, found[layer].values) for layer in layers}


def _holds_all(layer: Any) -> bool:
    """Return True if a layer's cache holds every key where it was put; one that slides may, in a wide window."""
    if type(layer) is DynamicSlidingWindowLayer:
        return bool(layer.cumulative_length == layer.keys.shape[2])
    if type(layer) is StaticSlidingWindowLayer:
        return bool(layer.cumulative_length_int <= layer.max_cache_len)
    return type(layer) in (DynamicLayer, StaticLayer)


def addresses(cache: Any) -> tuple[Any, ...] | None:
    """Where a cache of static layers alone has its memory, and its shapes; None: it is of another kind, or empty yet.

    Static layers that slide choose in Python what they do, so that a step is not the same as the one before.
    """
    layers = getattr(cache, "layers", None)
    if not layers or cache.offloading or not all(type(one) is StaticLayer and one.is_initialized for one in layers):
        return None
    return tuple((x.data_ptr(), x.shape) for one in layers for x in (one.keys, one.values, one.cumulative_length))


def writes(cache: Any, layer: int) -> tuple[Tensor, int] | None:
    """The tensor that is a static layer's length, with the number of writes to it, which is there without waiting.

    None: the length of another layer is a number already, and PyTorch counts no writes to tensors of inference mode.
    """
    length = getattr(cache.layers[layer], "cumulative_length", None)
    return (length, length._version) if isinstance(length, Tensor) and not length.is_inference() else None


Memory = tuple[tuple[weakref.ref[Tensor], int | None], ...]


def memory(cache: Any, layers: Sequence[int]) -> Memory:
    """Return the tensors of some layers' keys, with the number of writes to each; nothing waits for the GPU.

    All that moves rows (`reorder_cache`, `batch_select_indices`, `batch_repeat_interleave`) makes new tensors. PyTorch
    counts no writes to tensors of inference mode, None here.
    """
    keys = [cache.layers[layer].keys for layer in layers]
    return tuple((weakref.ref(x), None if x.is_inference() else x._version) for x in keys)


def refuse_moved_rows(before: Memory, now: Memory) -> None:
    """Refuse a cache that was changed behind a step: what was summarised may be another row's.

    Raises:
        UnsupportedModelError: it was.
    """
    for (keys, writes), (keys_now, writes_now) in zip(before, now, strict=True):
        if keys() is keys_now() and writes == writes_now:
            continue
        raise UnsupportedModelError(
            "rows of the cache were reordered, dropped, repeated or written between two steps, as num_beams > 1 does,"
            " which is not served; use num_beams=1, or go on with copy.deepcopy(cache), whose rows are summarised anew"
        )


def first_keys(mask: Any, rows: int, length: int) -> list[int]:
    """First key of each row that is no padding, by a mask [B, T], or bool [B, 1, 1, T], or several by kind of layer.

    Raises:
        UnsupportedModelError: the mask hides more than keys before the others, or all of a row.
    """
    mask = _of_full_layers(mask)
    if mask is None:
        return [0] * rows
    if mask.ndim == 4 and mask.dtype == torch.bool:
        mask = mask[:, 0, -1]
    if mask.ndim != 2:
        raise UnsupportedModelError(
            f"an attention_mask of {mask.ndim} dimensions and {mask.dtype} is not served; give one of [rows, tokens]"
        )
    # Where the mask is: numbers of all tokens wake all threads of a CPU, for longer than a GPU needs.
    seen = mask[:, :length].bool().expand(rows, -1)
    starts = seen.int().argmax(1)
    if not seen.any(1).all():
        empty = seen.any(1).tolist().index(False)
        raise UnsupportedModelError(
            f"attention_mask hides all of row {empty}, an empty text; leave it out of the batch"
        )
    if not torch.equal(seen, torch.arange(length, device=seen.device) >= starts[:, None]):
        raise UnsupportedModelError(
            "attention_mask hides tokens behind a row's first; pad on the left: tokenizer.padding_side = 'left'"
        )
    found: list[int] = starts.tolist()
    return found


def refuse_other_than_causal(mask: Any, positions: Tensor | None, starts: Sequence[int], length: int) -> None:
    """Refuse prompts whose queries do not see all keys of their row up to their own.

    Args:
        mask: as for `first_keys`.
        positions: of the tokens [B or 1, T], None where the model counts them itself.
        starts: first key of each row.
        length: tokens of the prompts, padding included.

    Raises:
        UnsupportedModelError: a mask of each query hides more, or positions start again: texts packed into a row.
    """
    seen = _of_full_layers(mask)
    by_query = seen is not None and seen.ndim == 4
    if not by_query and positions is None:
        return
    device = seen.device if by_query else positions.device  # type: ignore[union-attr]
    place = torch.arange(length, device=device) - torch.tensor(starts, device=device)[:, None]
    causal = torch.ones_like(place, dtype=torch.bool)
    if by_query:
        causal &= (seen[:, 0, :, :length].sum(-1) == place + 1) | (place < 0)
    if positions is not None:
        causal[:, 1:] &= (positions.to(device).diff() == 1) | (place[:, 1:] <= 0)
    if not causal.all():
        raise UnsupportedModelError(
            "scope='prompt' reads one text a row, causally, and attention_mask or position_ids say otherwise; give such"
            " rows, or calibrate with scope='question'"
        )


def _of_full_layers(mask: Any) -> Any:
    return mask.get(FULL) if isinstance(mask, Mapping) else mask
