"""Attention weights by the model's own eager code, which every family that registers attention functions has.

`output_attentions` would leave hooks on the model behind, with which it can be pickled no more.

Shapes: B rows, H query heads, K KV heads, T tokens, D head_dim.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from headscope.errors import UnsupportedModelError
from headscope.heads.mass import precise
from headscope.models.attention import attention, layer_of
from headscope.models.observe import failing, function_of

NAME = "headscope_eager"


class EagerCall(NamedTuple):
    """What a layer's eager attention took and gave.

    Attributes:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        weights: of the values, [B, H, T, T].
    """

    query: Tensor
    key: Tensor
    weights: Tensor


@dataclass(frozen=True)
class _Recorder:
    """Takes the calls; no plain dict, which accelerate copies on the way to another device."""

    calls: dict[int, EagerCall]


def eager_calls(model: PreTrainedModel, ids: Tensor) -> dict[int, EagerCall]:
    """Return the eager attention of every layer for tokens [B, T].

    Raises:
        UnsupportedModelError: the family has no eager code of the usual name, or it fails.
    """
    recorder = _Recorder({})
    with torch.inference_mode(), attention(model, NAME), failing(model, "with eager attention"):
        model(ids, use_cache=False, headscope=recorder)
    return recorder.calls


def _forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    headscope: _Recorder,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attend by the family's eager function in float32 and keep its weights; the signature is transformers'.

    In half precision that function rounds the scores, those of Qwen2.5 by so much that shares of mass are off by .3.
    """
    eager = function_of(module, "eager_attention_forward")
    if eager is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} has no eager attention to compare masses with; choose another model"
        )
    mask = None if attention_mask is None else precise(attention_mask)
    output, weights = eager(module, precise(query), precise(key), precise(value), mask, **options)
    headscope.calls[layer_of(module)] = EagerCall(query, key, weights)
    return output.to(query), weights


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, eager_mask)
