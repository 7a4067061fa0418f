"""Turns rotated queries from one position to another, with the model's own rotary code, compared with the model.

How a layer rotates is not assumed: of the ways below, that is used by which the queries of a forward become those of
the same tokens at other positions. A layer that no way fits is refused by its number.

Shapes: H query heads, Q queries, D head_dim.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import LengthError, UnsupportedModelError
from headscope.models.attention import LayerCall
from headscope.models.geometry import geometry
from headscope.models.observe import EXACT, FAILURES, CallRecorder, function_of, observe, random_tokens, run
from headscope.models.once import once

TOKENS = 16

Way = Callable[[PreTrainedModel, int, Tensor, Tensor, Tensor], Tensor]


class Turn(NamedTuple):
    """How a layer's queries are turned.

    Attributes:
        way: one of WAYS.
        error: norm of its error in the comparison, as a share of the queries' norm.
    """

    way: str
    error: float


def turn(model: PreTrainedModel, layer: int, states: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Turn [H, Q, D] states that were rotated to positions `before` [Q] to positions `after` [Q], in float32.

    Raises:
        UnsupportedModelError: the model does it in none of the known ways.
    """
    return WAYS[verified_turn(model, layer).way](model, layer, states.float(), before, after)


def verified_turn(model: PreTrainedModel, layer: int) -> Turn:
    """Return how a layer's queries are turned.

    Raises:
        UnsupportedModelError: no known way gives the model's own queries.
    """
    found = turns(model)[layer]
    if found.error > allowed_error(model):
        raise UnsupportedModelError(
            f"{type(model).__name__}: queries of layer {layer} cannot be turned to another position: compared with a "
            f"forward there, the nearest way ({found.way}) is off by {found.error:.2g} of their norm; choose criterion="
            "'qada', which needs no probes, or another model"
        )
    return found


def allowed_error(model: PreTrainedModel) -> float:
    """Return the relative error of a turn that rounding explains; a wrong way is off by about 1."""
    return 1e-3 if model.dtype in EXACT else 0.02


@once
def turns(model: PreTrainedModel) -> dict[int, Turn]:
    """Return the best way of every layer, compared by forwards at two places; the model is asked once."""
    before, after = _places(model)
    ids = random_tokens(model, TOKENS)
    outputs: dict[int, Tensor] = {}
    here, there = (_queries(model, ids, int(first[0]), outputs) for first in (before, after))
    return {
        layer: min(
            (_compared(model, layer, way, here, there, before, after) for way in WAYS), key=lambda turn: turn.error
        )
        for layer in here
    }


def _places(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Choose two stretches of positions, as far apart as the model's rotary factors stay the same."""
    last = max(geometry(model.config).positions - TOKENS, 1)
    device = model.get_input_embeddings().weight.device
    layers = range(geometry(model.config).layers)
    first = 0 if all(same_factors(model, layer, TOKENS, last + TOKENS) for layer in layers) else max(last - TOKENS, 0)
    at = torch.arange(TOKENS, device=device)
    return first + at, last + at


def _queries(model: PreTrainedModel, ids: Tensor, first: int, outputs: dict[int, Tensor]) -> dict[int, Tensor]:
    recorder = _Replay(outputs)
    run(model, ids, first, recorder)
    return {layer: calls[0].query[0].float() for layer, calls in recorder.calls.items()}


class _Replay(CallRecorder):
    """Gives every layer the output that it had in the first of several forwards, so that positions alone differ.

    Scores at late positions are rounded otherwise, and each layer would add to that: 24 of them, at a million
    positions, turn float32 queries by more than a percent.

    Attributes:
        outputs: by layer, [B, H, T, D]; the first forward fills them.
    """

    def __init__(self, outputs: dict[int, Tensor]):
        super().__init__()
        self.outputs = outputs

    def attend(self, call: LayerCall) -> Tensor:
        """Keep the call; return the layer's first output."""
        return self.outputs.setdefault(call.layer, super().attend(call))


def _compared(
    model: PreTrainedModel,
    layer: int,
    way: str,
    here: dict[int, Tensor],
    there: dict[int, Tensor],
    before: Tensor,
    after: Tensor,
) -> Turn:
    try:
        turned = WAYS[way](model, layer, here[layer], before, after)
    except FAILURES:
        return Turn(way, float("inf"))  # this model's code is called otherwise
    expected = there[layer]
    error = float((turned - expected).norm() / expected.norm().clamp(min=1e-20))
    return Turn(way, error if error == error else float("inf"))


def _unturned(model: PreTrainedModel, layer: int, states: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Leave the states of a layer without RoPE."""
    return states


def _whole(model: PreTrainedModel, layer: int, states: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Hand whole heads to the model's rotary function."""
    return _turned(model, layer, states, states.shape[-1], before, after)


def _first_numbers(model: PreTrainedModel, layer: int, states: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Hand as many of a head's numbers to the model's rotary function as there are cosines."""
    return _turned(model, layer, states, angles(model, layer, before)[0].shape[-1], before, after)


WAYS: dict[str, Way] = {"whole heads": _whole, "first numbers": _first_numbers, "without RoPE": _unturned}


def _turned(model: PreTrainedModel, layer: int, states: Tensor, size: int, before: Tensor, after: Tensor) -> Tensor:
    rotate = _rotary_function(model, layer)
    rotated, still = states[..., :size], states[..., size:]
    cos, sin = angles(model, layer, before)
    plain = rotate(rotated, cos, -sin)
    # A scaling of the embedding is in both cosines and cancels.
    own = cos.shape[-1]
    plain = torch.cat([plain[..., :own] / (cos.square() + sin.square()), plain[..., own:]], -1)
    return torch.cat([rotate(plain, *angles(model, layer, after)), still], -1)


def _rotary_function(model: PreTrainedModel, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the function of the model's own module that rotates [H, Q, D] states."""
    module = model.get_submodule(observe(model)[layer].attention)
    apply = function_of(module, "apply_rotary_pos_emb")

    def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotated: Tensor = apply(states[None], states[None], cos[None], sin[None])[0][0]
        return rotated

    return rotate


def angles(model: PreTrainedModel, layer: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine and sine of a layer's rotated numbers at positions [Q], as the model makes them."""
    module = model.get_submodule(observe(model)[layer].attention)
    rotary = getattr(model.get_decoder(), "rotary_emb", None) or module.rotary_emb
    options = {}
    if "layer_type" in inspect.signature(rotary.forward).parameters:
        options["layer_type"] = model.config.get_text_config(decoder=True).layer_types[layer]
    like = torch.zeros(1, dtype=torch.float32, device=positions.device)
    cos, sin = rotary(like, positions[None], **options)
    return cos[0].float(), sin[0].float()


def same_factors(model: PreTrainedModel, layer: int, tokens: int, more: int) -> bool:
    """Return True if a layer's first positions are rotated alike in sequences of two lengths.

    Those of `dynamic` and `longrope` change with the length, while keys in a cache keep the factors of their time.
    """
    device = model.get_input_embeddings().weight.device
    try:
        pairs = [
            angles(model, layer, torch.tensor([*range(min(tokens, TOKENS)), last - 1], device=device))
            for last in (tokens, more)
        ]
    except FAILURES:
        return True  # not the usual embedding: the comparison of turns shows what it does
    return all(torch.equal(short[:-1], long[:-1]) for short, long in zip(*pairs, strict=True))


def refuse_changing_factors(model: PreTrainedModel, first: int, last: int) -> None:
    """Refuse a sequence whose cached keys would keep other rotary factors than its later keys get.

    Args:
        model: whose layers are asked.
        first: tokens that are read at once.
        last: tokens with all that follow.

    Raises:
        LengthError: the factors at both lengths differ.
    """
    layer = geometry(model.config).full_layers[0]
    if not same_factors(model, layer, first, last):
        raise LengthError(
            f"{type(model).__name__} changes its RoPE between {first} and {last} tokens, and cached keys keep the old "
            "one; give prompts that stay, answers included, on one side of that length"
        )
