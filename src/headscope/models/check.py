"""Compares what headscope takes a model for with what the model computes: logits, masses, turns of queries.

Shapes: B rows, H query heads, T tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import UnsupportedModelError
from headscope.heads.mass import log_masses
from headscope.heads.window import Window
from headscope.models.attention import attention
from headscope.models.eager import eager_calls
from headscope.models.geometry import geometry
from headscope.models.identity import refuse_offloaded
from headscope.models.observe import EXACT, failing, observe, random_tokens
from headscope.models.once import once
from headscope.models.rotary import allowed_error, verified_turn

TOKENS = 64
LOWEST = torch.finfo(torch.float16).min
"""A logit as low as this one masks its token."""


class Finding(NamedTuple):
    """One comparison.

    Attributes:
        what: its subject, in the plural.
        compared: what it should equal.
        error: the largest.
        allowed: error that rounding explains.
        unknown: why nothing can be compared; empty: it was.
        probes: whether only criteria with probes (outliers, weights of heads) need it.
    """

    what: str
    compared: str
    error: float = 0.0
    allowed: float = 0.0
    unknown: str = ""
    probes: bool = False

    @property
    def passed(self) -> bool:
        """Return True if the error is one of rounding."""
        return not self.unknown and self.error <= self.allowed


def refuse(model: PreTrainedModel, findings: list[Finding], probes: bool) -> None:
    """Refuse a model by the first comparison that failed.

    Args:
        model: that was compared.
        findings: all comparisons.
        probes: whether queries are to be turned and heads weighed; else what only probes need may fail.

    Raises:
        UnsupportedModelError: naming what was compared, and by how much it is off.
    """
    for finding in findings:
        if not finding.passed and (probes or not finding.probes):
            remedy = "criterion='qada', which needs no probes, or another model" if finding.probes else "another model"
            raise UnsupportedModelError(
                finding.unknown
                or f"{type(model).__name__}: {finding.what} differ from {finding.compared} by {finding.error:.2g} "
                f"(allowed {finding.allowed:g}), so its attention does something that is not implemented; choose "
                + remedy
            )


@once
def check_logits(model: PreTrainedModel) -> Finding:
    """Compare logits under the registered function with those of the model's own attention.

    Raises:
        UnsupportedModelError: it does not run, has too few positions, or a parameter is offloaded.
    """
    refuse_offloaded(model)
    positions = geometry(model.config).positions
    if positions < TOKENS:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds {positions} positions (max_position_embeddings), no long context: the check "
            f"takes {TOKENS} tokens; choose another model"
        )
    ids = random_tokens(model, TOKENS)
    with torch.inference_mode(), failing(model, "at all"):
        own = model(ids, use_cache=False).logits.float()
    at = torch.arange(TOKENS, device=ids.device)[None]
    with torch.inference_mode(), attention(model), failing(model, "with position ids and a registered attention"):
        ours = model(ids, position_ids=at, use_cache=False).logits.float()
    return compare_logits(model, "logits", "the model's own with positions from 0 on", ours, own)


def compare_logits(model: PreTrainedModel, what: str, compared: str, ours: Tensor, own: Tensor) -> Finding:
    """Compare logits [..., V] with the model's own: the largest difference as a share of the largest logit."""
    if bool(own.isnan().any() or own.isposinf().any()):
        dtype = str(model.dtype).removeprefix("torch.")
        reason = f"{type(model).__name__} computes logits that are NaN or infinite in {dtype}; load it in another dtype"
        return Finding(what, compared, unknown=f"{reason} (float32 holds all), or load its weights again")
    # Chameleon masks tokens with the lowest number of its type, beside which no difference would count.
    tokens = (own > LOWEST).flatten(0, -2).all(0)
    ours, own = ours[..., tokens], own[..., tokens]
    error = float((ours - own).abs().max() / own.abs().max().clamp(min=1e-6))
    return Finding(what, compared, error if error == error else float("inf"), 1e-3 if model.dtype in EXACT else 0.1)


def check_masses(model: PreTrainedModel) -> Finding:
    """Compare the window's share of the mass with the eager attention's weights, in every full-attention layer."""
    compared = "eager attention weights"
    window, facts = Window(4, 12), observe(model)
    try:
        calls = eager_calls(model, random_tokens(model, TOKENS, 1))
    except UnsupportedModelError as error:
        return Finding("masses", compared, unknown=str(error))
    worst = 0.0
    for layer in geometry(model.config).full_layers:
        query, key, weights = calls[layer]
        position = torch.arange(TOKENS // 2, TOKENS, 5, device=query.device)
        masses = log_masses(query[:, :, position], key, position, window, facts[layer].scale)
        eager = weights[:, :, position].float() * window.local(position, torch.arange(TOKENS, device=query.device))
        difference = torch.sigmoid(masses.local - masses.bulk) - eager.sum(-1)
        worst = max(worst, float(difference.abs().max().nan_to_num(nan=torch.inf)))
    return Finding("masses", compared, worst, 1e-3)


def check_turns(model: PreTrainedModel) -> Finding:
    """Compare queries turned to late positions with those of a forward there, in every full-attention layer."""
    compared = "those of a forward at the last positions"
    try:
        errors = [verified_turn(model, layer).error for layer in geometry(model.config).full_layers]
    except UnsupportedModelError as error:
        return Finding("turned queries", compared, unknown=str(error), probes=True)
    return Finding("turned queries", compared, max(errors), allowed_error(model), probes=True)
