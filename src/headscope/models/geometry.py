"""What a model's config says about its attention: sizes, which layers see everything, and what is not implemented."""

from dataclasses import dataclass
from typing import Any

from headscope.errors import UnsupportedModelError

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
    """Read the sizes from a transformers config; a multimodal one is asked for its text part."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    return Geometry(
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        positions=text.max_position_embeddings,
        full_layers=tuple(layer for layer, kind in enumerate(_layer_types(text)) if kind == FULL),
    )


def scale_of(model: Any, layer: int) -> float:
    """Return the factor of a layer's scores."""
    return float(model.get_decoder().layers[layer].self_attn.scaling)


def _layer_types(text: Any) -> list[str]:
    """Return the kind of each layer's attention."""
    given = getattr(text, "layer_types", None)
    if given is not None:
        return list(given)
    # Mistral and Phi-3 name no kinds: with a window, every layer slides.
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return [FULL if window is None else SLIDING] * text.num_hidden_layers


def refuse_unsupported(config: Any) -> None:
    """Refuse attention whose log masses would not be what the criteria take them for.

    Raises:
        UnsupportedModelError: an encoder-decoder, soft-capped scores, learned sinks, layers that are neither full nor
            sliding attention, or no layer with full attention.
    """
    text = config.get_text_config(decoder=True)
    reason = _reason(config, text)
    if reason:
        raise UnsupportedModelError(f"model type {config.model_type}: {reason}; choose another model")


def _reason(config: Any, text: Any) -> str | None:
    """Say what is not implemented, or nothing."""
    if config.is_encoder_decoder:
        return "an encoder-decoder has no single causal context"
    if getattr(text, "attn_logit_softcapping", None) is not None:
        return f"attn_logit_softcapping={text.attn_logit_softcapping} bends the scores, which is not implemented"
    if text.model_type.startswith("gpt_oss") or getattr(text, "add_full_attention_sink_bias", False):
        return "learned attention sinks (s_aux) add mass that is no key's, which is not implemented"
    if not hasattr(text, "num_attention_heads") or not hasattr(text, "max_position_embeddings"):
        return "it has no attention heads over a bounded number of positions"
    other = sorted(set(_layer_types(text)) - {FULL, SLIDING})
    if other:
        return f"layers of kind {', '.join(other)} are not implemented, only full and sliding attention"
    if FULL not in _layer_types(text):
        return f"every layer slides (sliding_window={text.sliding_window}), so no head reads a long context"
    return None
