"""Verifies a model before anything is calibrated on it: what headscope takes it for is what it computes."""

from transformers import PreTrainedModel

from headscope.inference.check_answers import check_answers
from headscope.models.check import Finding, check_logits, check_masses, check_turns, refuse
from headscope.models.check_weights import check_weights
from headscope.models.geometry import geometry, refuse_unsupported
from headscope.models.observe import observe
from headscope.models.once import forget_if_changed, once


def check_model(model: PreTrainedModel) -> list[Finding]:
    """Compare logits, masses, answers, turned probes and weights of heads with the model's own, once.

    Raises:
        UnsupportedModelError: the model is of a kind of which nothing can be compared.
    """
    forget_if_changed(model)
    return _findings(model)


@once
def _findings(model: PreTrainedModel) -> list[Finding]:
    refuse_unsupported(model.config)
    logits = check_logits(model)
    refuse(model, [logits], probes=False)
    observe(model)
    return [logits, check_masses(model), *check_answers(model), check_turns(model), check_weights(model)]


def refuse_unverified(model: PreTrainedModel, probes: bool) -> None:
    """Refuse a model of which a comparison fails.

    Args:
        model: in evaluation mode.
        probes: whether the criterion asks for probes, which turn queries and weigh heads.

    Raises:
        UnsupportedModelError: naming what was compared, and by how much it is off.
    """
    refuse(model, check_model(model), probes)


def described(model: PreTrainedModel) -> dict[str, str]:
    """Say in words what the model is: its sizes, which layers count and why, scale and RoPE."""
    sizes, facts = geometry(model.config), observe(model)
    text = model.config.get_text_config(decoder=True)
    sliding = sorted({layer.sliding for layer in facts.values() if layer.sliding is not None})
    full = f"{len(sizes.full_layers)} of {sizes.layers}"
    why = f"; the others see the last {', '.join(map(str, sliding))} keys" if sliding else "; every query sees all keys"
    scales = sorted({facts[layer].scale for layer in sizes.full_layers})
    group = sizes.heads // sizes.kv_heads
    return {
        "model": f"{type(model).__name__} ({model.config.model_type}), {str(model.dtype).removeprefix('torch.')}",
        "layers with full attention": full + why,
        "heads a layer": f"{sizes.heads} query, {sizes.kv_heads} KV, groups of {group}, head_dim {sizes.head_dim}",
        "positions": str(sizes.positions),
        "scale of scores": ", ".join(f"{scale:.6g}" for scale in scales),
        "RoPE": str(getattr(text, "rope_parameters", None) or "none in the config"),
    }
