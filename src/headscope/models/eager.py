"""Attention weights by the model's own eager code, which every family that registers attention functions has.

`output_attentions` would leave hooks on the model behind, with which it can be pickled no more.

Shapes: B rows, H query heads, T tokens.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from headscope.errors import UnsupportedModelError
from headscope.models.attention import attention, layer_of
from headscope.models.observe import failing

NAME = "headscope_eager"


def eager_weights(model: PreTrainedModel, ids: Tensor) -> dict[int, Tensor]:
    """Return the attention weights of every layer for tokens [B, T], [B, H, T, T].

    Raises:
        UnsupportedModelError: the family has no eager code of the usual name, or it fails.
    """
    weights: dict[int, Tensor] = {}
    with torch.inference_mode(), attention(model, NAME), failing(model, "with eager attention"):
        model(ids, use_cache=False, headscope=weights)
    return weights


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    headscope: dict[int, Tensor],
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attend by the family's eager function and keep its weights; the signature is transformers'."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UnsupportedModelError(f"{type(module).__name__} has no eager attention to compare masses with")
    output, headscope[layer_of(module)] = eager(module, query, key, value, attention_mask, **options)
    return output, headscope[layer_of(module)]


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, eager_mask)
