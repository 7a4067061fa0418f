"""Turns rotated queries from one position to another, with the model's own rotary embedding.

Shapes: H query heads, Q queries, D head_dim.
"""

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel


def turn(model: PreTrainedModel, layer: int, states: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Turn [H, Q, D] states that were rotated to positions `before` [Q] to positions `after` [Q], in float32.

    A head dimension that the model does not rotate stays as it is. Every supported model rotates halves
    (x cos + rotate_half(x) sin); a scaling of the embedding is in both cosines and cancels.
    """
    states = states.float()
    cos, sin = _angles(model, layer, before)
    size = cos.shape[-1]
    turned, still = states[..., :size], states[..., size:]
    plain = (turned * cos - _rotate_half(turned) * sin) / (cos.square() + sin.square())
    cos, sin = _angles(model, layer, after)
    return torch.cat([plain * cos + _rotate_half(plain) * sin, still], -1)


def _angles(model: PreTrainedModel, layer: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every dimension, [Q, D] each."""
    rotary = model.get_decoder().rotary_emb
    options = {}
    if "layer_type" in inspect.signature(rotary.forward).parameters:
        options["layer_type"] = model.config.get_text_config(decoder=True).layer_types[layer]
    given = torch.zeros(1, dtype=torch.float32, device=positions.device)
    cos, sin = rotary(given, positions[None], **options)
    return cos[0].float(), sin[0].float()


def _rotate_half(states: Tensor) -> Tensor:
    half = states.shape[-1] // 2
    return torch.cat([-states[..., half:], states[..., :half]], -1)
