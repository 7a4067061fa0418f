"""Asks a model what its layers hand to the attention function, by one forward of a few tokens.

A config can be read wrongly; what a layer does is seen. Whatever departs from the sizes that the config gives is
refused by the layer's number.

Shapes: B rows, H query heads, K KV heads, T tokens, D head_dim, E numbers of the residual stream.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.models.attention import LayerCall, Layers, attention, causal_attention
from headscope.models.geometry import Geometry, geometry
from headscope.models.once import once

TOKENS = 8
EXACT = (torch.float32, torch.float64)
"""Types in which rounding explains small errors alone."""
FAILURES = (TypeError, AttributeError, LookupError, ValueError, RuntimeError)
"""What a model's own code raises where it is called otherwise than it expects."""


class LayerFacts(NamedTuple):
    """What a layer showed.

    Attributes:
        scale: factor of its scores.
        sliding: keys that its queries see; None: all.
        attention: name of the attention module.
        block: name of the decoder layer around it.
    """

    scale: float
    sliding: int | None
    attention: str
    block: str


class CallRecorder:
    """Keeps every attention call of a forward; attends as the model does."""

    def __init__(self) -> None:
        self.calls: dict[int, list[LayerCall]] = {}

    def attend(self, call: LayerCall) -> Tensor:
        """Keep the call and attend, [B, H, T, D]."""
        self.calls.setdefault(call.layer, []).append(call)
        return causal_attention(call)


@once
def observe(model: PreTrainedModel) -> dict[int, LayerFacts]:
    """Return what every layer of the model showed, by its index; the model is asked once.

    Raises:
        UnsupportedModelError: a layer never reaches the attention function or calls it twice, its sizes are not the
            config's, or it attends to other keys or values than its cache holds.
    """
    recorder, cache = CallRecorder(), DynamicCache()
    run(model, random_tokens(model, TOKENS), 0, recorder, cache)
    _refuse_departures(model, recorder.calls, cache)
    names = {module: name for name, module in model.named_modules()}
    return {layer: _facts(recorder.calls[layer][0], names) for layer in sorted(recorder.calls)}


def function_of(module: nn.Module, name: str) -> Any:
    """Return the function of that name beside a module's class or one that it is derived from; None: there is none."""
    files = [sys.modules.get(kind.__module__) for kind in type(module).__mro__]
    return next((getattr(file, name) for file in files if hasattr(file, name)), None)


def entering(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """Return the states that a decoder layer is called with, [B, T, E]."""
    states: Tensor = arguments[0] if arguments else named["hidden_states"]
    return states


@contextmanager
def hooked(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks behind the block."""
    handles = list(hooks)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def scales_of(model: PreTrainedModel) -> dict[int, float]:
    """Return the factor of the scores of every full-attention layer."""
    layers = observe(model)
    return {layer: layers[layer].scale for layer in geometry(model.config).full_layers}


def random_tokens(model: PreTrainedModel, tokens: int, seed: int = 0) -> Tensor:
    """Draw token ids, [1, T], on the device of the model's inputs."""
    generator, embeddings = torch.Generator().manual_seed(seed), model.get_input_embeddings().weight
    known = min(len(embeddings), getattr(model.config.get_text_config(), "vocab_size", len(embeddings)))
    return torch.randint(0, known, (1, tokens), generator=generator).to(embeddings.device)


@torch.inference_mode()
def run(model: PreTrainedModel, ids: Tensor, first: int, layers: Layers, cache: DynamicCache | None = None) -> None:
    """Run tokens [B, T] from position `first` on under an attention of one's own.

    Raises:
        UnsupportedModelError: the model fails, as one does that takes no position ids or no cache.
    """
    positions = torch.arange(first, first + ids.shape[1], device=ids.device)[None].expand(len(ids), -1)
    options = {} if cache is None else {"past_key_values": cache}
    options |= {"use_cache": cache is not None, "logits_to_keep": 1}  # nobody reads them, and they are half of the work
    with attention(model), failing(model, "with position ids, a DynamicCache and a registered attention function"):
        model(ids, position_ids=positions, headscope=layers, **options)


@contextmanager
def failing(model: PreTrainedModel, how: str) -> Iterator[None]:
    """Name the model where its own code fails inside the block, which runs uncompiled.

    Raises:
        UnsupportedModelError: it does.
    """
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    except FAILURES as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run {how} ({type(error).__name__}: {reason}); choose another model"
        ) from error


def _refuse_departures(model: PreTrainedModel, calls: dict[int, list[LayerCall]], cache: DynamicCache) -> None:
    sizes = geometry(model.config)
    for layer in sorted({*range(sizes.layers), *calls}):
        reason = _departure(layer, calls.get(layer, []), sizes, cache)
        if reason:
            raise UnsupportedModelError(f"{type(model).__name__}: layer {layer} {reason}; choose another model")


def _departure(layer: int, calls: list[LayerCall], sizes: Geometry, cache: DynamicCache) -> str | None:
    """Say how a layer departs from the config, from one call a forward or from its cache; None: it does not."""
    if len(calls) != 1:
        often = f"{len(calls)} times a forward, not once" if calls else "never"
        return f"calls the registered attention function {often}"
    [call] = calls
    if layer >= sizes.layers:
        return f"is beyond the config's {sizes.layers} layers"
    expected = {
        "query": (1, sizes.heads, TOKENS, sizes.head_dim),
        "key": (1, sizes.kv_heads, TOKENS, sizes.head_dim),
        "value": (1, sizes.kv_heads, TOKENS, sizes.head_dim),
    }
    for name, shape in expected.items():
        if getattr(call, name).shape != shape:
            return f"attends with a {name} of {tuple(getattr(call, name).shape)}, its config says {shape}"
    if (call.sliding is None) != (layer in sizes.full_layers):
        reads = "all keys" if call.sliding is None else f"{call.sliding} keys"
        return f"lets a query see {reads}, its config says {'all' if layer in sizes.full_layers else 'a window'}"
    stored = cache.layers[layer] if layer < len(cache.layers) else None
    for name in ("key", "value"):
        if not _same(getattr(call, name), getattr(stored, f"{name}s", None)):
            return f"attends to other {name}s than its cache holds"
    return None


def _same(attended: Tensor, stored: Tensor | None) -> bool:
    return stored is not None and attended.shape == stored.shape and torch.equal(attended, stored)


def _facts(call: LayerCall, names: dict[nn.Module, str]) -> LayerFacts:
    assert call.module is not None
    name = names[call.module]
    return LayerFacts(call.scale, call.sliding, name, _block(name))


def _block(attention: str) -> str:
    """Return the name of the decoder layer, which has a number; other modules may stand around the attention."""
    parts = attention.split(".")[:-1]
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[-1] + 1] if numbers else parts)
