"""The attention function registered with transformers: no model file is ever forked.

What a query sees follows from key lengths and positions, never from a materialised mask. Whoever runs the model passes
a `Layers` object as the forward keyword `headscope`; without it the function is the model's own causal attention.

Shapes: B rows, H query heads, K KV heads, Q queries, T keys, D head_dim.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.models.geometry import longest

NAME = "headscope"
UNPADDED = "headscope_unpadded"
"""Name of the same function for who never pads: no mask builder looks at positions, for which a GPU would wait."""
HARMLESS = {
    "position_ids",
    "is_causal",
    "use_cache",
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "logits_to_keep",
    "position_embeddings",
    "return_dict",
}
"""Keywords that model code hands on to every attention call and that change nothing there."""
SLIDING_CHUNK = 512


@dataclass(frozen=True)
class LayerCall:
    """One attention call of the model.

    Attributes:
        layer: index of the layer.
        query: rotated, [B, H, Q, D].
        key: rotated, [B, K, T, D]; what the cache returned.
        value: [B, K, T, D].
        scale: factor of the scores.
        sliding: keys that a sliding layer sees (the query's own included); None for full attention.
        module: the attention module that calls; None where no model does.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    sliding: int | None
    module: nn.Module | None = None


class Layers(Protocol):
    """Takes over the attention of every layer for one forward pass."""

    def attend(self, call: LayerCall) -> Tensor:
        """Return the attention output, [B, H, Q, D]."""


def causal_attention(call: LayerCall) -> Tensor:
    """The model's own attention, [B, H, Q, D]; the queries are the last of the keys' positions."""
    queries, keys = call.query.shape[2], call.key.shape[2]
    if queries == keys and (call.sliding is None or keys <= call.sliding):
        return _sdpa(call.query, call.key, call.value, call.scale, is_causal=True)
    chunks = [_attend_chunk(call, first, keys - queries) for first in range(0, queries, SLIDING_CHUNK)]
    return torch.cat(chunks, dim=2)


def _attend_chunk(call: LayerCall, first: int, offset: int) -> Tensor:
    """Attention of a few queries over just the keys they see; memory is a chunk's, not the sequence's."""
    query = call.query[:, :, first : first + SLIDING_CHUNK]
    position = torch.arange(first, first + query.shape[2], device=query.device) + offset
    start = 0 if call.sliding is None else max(0, first + offset - call.sliding + 1)
    stop = first + offset + query.shape[2]
    key_position = torch.arange(start, stop, device=query.device)
    visible = key_position[None] <= position[:, None]
    if call.sliding is not None:
        visible &= key_position[None] > position[:, None] - call.sliding
    return _sdpa(query, call.key[:, :, start:stop], call.value[:, :, start:stop], call.scale, attn_mask=visible)


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scale: float, **options: Any) -> Tensor:
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=grouped, **options)


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    headscope: Layers | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend for one layer; the signature is that of transformers' attention functions.

    Raises:
        UnsupportedModelError: a mask, dropout, a layer without an index, or any keyword that may change attention.
    """
    _refuse_options(module, {**options, "attention_mask": attention_mask, "dropout": dropout})
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    sliding = reach(sliding_window, getattr(module, "config", None), key.shape[2])
    call = LayerCall(layer_of(module), query, key, value, scale, sliding, module)
    output = causal_attention(call) if headscope is None else headscope.attend(call)
    return output.transpose(1, 2).contiguous(), None


def _refuse_options(module: nn.Module, options: dict[str, Any]) -> None:
    """Refuse keywords with an effect: one that is None, False or 0 switches nothing on."""
    effective = sorted(
        name
        for name, value in options.items()
        if name not in HARMLESS and (isinstance(value, Tensor) or (value is not None and bool(value)))
    )
    if effective:
        raise UnsupportedModelError(
            f"{type(module).__name__} asks its attention for {', '.join(effective)}, which is not implemented; "
            "choose a model without it (masks: run prompts one by one, unpadded)"
        )


def layer_of(module: nn.Module) -> int:
    """Return the index of an attention module's layer.

    Raises:
        UnsupportedModelError: it has none.
    """
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise UnsupportedModelError(
            f"{type(module).__name__} calls attention without an index of its layer (layer_idx); choose another model"
        )
    return layer


def reach(sliding_window: int | None, config: Any, keys: int) -> int | None:
    """Return the keys that a sliding layer sees, or None if it sees all: a window as wide as the model never slides.

    Raises:
        UnsupportedModelError: there are more keys than such a window and the model's positions hold.
    """
    if sliding_window is None or config is None or sliding_window < longest(config):
        return sliding_window
    if keys > sliding_window:
        raise UnsupportedModelError(
            f"{keys} keys are more than sliding_window={sliding_window}, which holds all of the model's positions; "
            "give shorter prompts"
        )
    return None


def _no_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> None:
    """Stand in for transformers' mask builders: nothing to build, but padding must not pass unseen.

    Raises:
        UnsupportedModelError: the batch is padded.
    """
    if attention_mask is not None and not bool(attention_mask.all()):
        raise UnsupportedModelError("attention_mask hides tokens (a padded batch); run prompts one by one, unpadded")


AttentionInterface.register(NAME, _forward)
AttentionInterface.register(UNPADDED, _forward)
AttentionMaskInterface.register(NAME, _no_mask)


@contextmanager
def attention(model: PreTrainedModel, name: str = NAME) -> Iterator[None]:
    """Route the model's attention through a registered function inside the block."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
