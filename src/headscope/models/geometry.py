"""What a model's config says about its attention: sizes, which layers see everything, and what is not implemented."""

from dataclasses import dataclass
from typing import Any

from headscope.errors import UnsupportedModelError
from headscope.models.config_numbers import refuse_wrong_numbers

FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Geometry:
    """Sizes of a decoder.

    Attributes:
        layers: decoder layers.
        heads: query heads of a layer.
        kv_heads: key-value heads of a layer.
        head_dim: size of a head.
        positions: longest sequence, without a RoPE override, in tokens.
        full_layers: indices of the layers whose queries see every earlier key.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    full_layers: tuple[int, ...]


def geometry(config: Any) -> Geometry:
    """Read the sizes from a transformers config; a multimodal one is asked for its text part.

    Raises:
        UnsupportedModelError: the config names no single number for one of them.
    """
    text = config.get_text_config(decoder=True)
    heads = _number(text, "num_attention_heads")
    return Geometry(
        layers=_number(text, "num_hidden_layers"),
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", heads),
        head_dim=_number(text, "head_dim", 0) or _number(text, "hidden_size") // heads,
        positions=_number(text, "max_position_embeddings"),
        full_layers=tuple(layer for layer, kind in enumerate(_layer_types(text)) if kind == FULL),
    )


def _value(text: Any, name: str) -> Any:
    """Return a value of the config, None if it has none.

    Raises:
        UnsupportedModelError: each layer has its own.
    """
    try:
        return getattr(text, name, None)
    except Exception as error:  # transformers' own, of a config that has it layer by layer
        raise UnsupportedModelError(
            f"model type {text.model_type}: {name} differs from layer to layer; choose another model"
        ) from error


def _number(text: Any, name: str, default: int | None = None) -> int:
    """Return a size of the config; a default stands in for one that is missing or None."""
    value = _value(text, name)
    value = default if value is None else value
    if not isinstance(value, int) or (value < 1 and value != default):
        shown = "is missing" if value is None else f"is {value!r}, not one number above 0 for all layers"
        raise UnsupportedModelError(f"model type {text.model_type}: {name} {shown}; choose another model")
    return value


def longest(config: Any) -> float:
    """Return the model's positions, or infinity if its config names none."""
    positions = _value(config.get_text_config(decoder=True), "max_position_embeddings")
    return positions if isinstance(positions, int) else float("inf")


def _layer_types(text: Any) -> list[str]:
    """Return the kind of each layer's attention; a window as wide as the model never slides."""
    window = _value(text, "sliding_window")
    wide = isinstance(window, int) and window >= longest(text)
    types = _value(text, "layer_types")
    if types is not None:
        return [FULL if wide and kind == SLIDING else kind for kind in types]
    # Mistral and Phi-3 name no kinds: with a window, every layer slides.
    slides = window is not None and not wide and getattr(text, "use_sliding_window", True)
    return [SLIDING if slides else FULL] * _number(text, "num_hidden_layers")


def refuse_unsupported(config: Any) -> None:
    """Refuse attention whose log masses would not be what the criteria take them for.

    Raises:
        UnsupportedModelError: an encoder-decoder, soft-capped scores, learned sinks, layers that are neither full nor
            sliding attention, no layer with full attention, a size that is no single number, or another wrong number.
    """
    text = config.get_text_config(decoder=True)
    if not hasattr(text, "model_type"):
        raise UnsupportedModelError(
            f"model type {config.model_type}: transformers does not read its text_config; repair its config.json, or "
            "choose another model"
        )
    refuse_wrong_numbers(text)
    reason = _reason(config, text)
    if reason:
        raise UnsupportedModelError(f"model type {config.model_type}: {reason}; choose another model")
    sizes = geometry(config)
    if sizes.heads % sizes.kv_heads:
        raise UnsupportedModelError(
            f"model type {config.model_type}: num_attention_heads is {sizes.heads}, no multiple of its "
            f"num_key_value_heads, {sizes.kv_heads}; repair its config.json, or choose another model"
        )


def _reason(config: Any, text: Any) -> str | None:
    """Say what is not implemented, or nothing."""
    if config.is_encoder_decoder:
        return "an encoder-decoder has no single causal context"
    if getattr(text, "attn_logit_softcapping", None) is not None:
        return f"attn_logit_softcapping={text.attn_logit_softcapping} bends the scores, which is not implemented"
    if text.model_type.startswith("gpt_oss") or getattr(text, "add_full_attention_sink_bias", False):
        return "learned attention sinks (s_aux) add mass that is no key's, which is not implemented"
    if None in (_value(text, "num_attention_heads"), _value(text, "max_position_embeddings")):
        return "it has no attention heads over a bounded number of positions"
    if (chunk := getattr(text, "attention_chunk_size", None)) is not None:  # caches would cut at it in any layer
        return f"layers of kind chunked_attention (attention_chunk_size={chunk!r:.40}) are not implemented"
    other = sorted(set(_layer_types(text)) - {FULL, SLIDING})
    if other:
        return f"layers of kind {', '.join(other)} are not implemented, only full and sliding attention"
    if _layer_types(text) and FULL not in _layer_types(text):
        return f"every layer slides (sliding_window={text.sliding_window}), so no head reads a long context"
    return None
