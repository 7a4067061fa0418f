"""Compares answers in which every head reads everything with the dense model's: static and dynamic caches, padding.

Steps are fed tokens of our own and logits are compared, so that a near tie is no difference.

Shapes: B rows, T tokens, V tokens of the vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from headscope.heads.calibration.maps import MarginMap
from headscope.heads.window import Window
from headscope.inference.context import NAME, adaptive
from headscope.inference.criterion import RECIPES, AdaptiveCriterion
from headscope.lab.prefill import next_logits, prefill_densely
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import attention
from headscope.models.check import Finding, compare_logits
from headscope.models.geometry import geometry
from headscope.models.identity import identity
from headscope.models.observe import failing, random_tokens

PROMPT = 48
STEPS = 4
SHORTER = 17
"""Tokens that the second row of a padded batch lacks."""
WINDOW = Window(4, 12)
WIDEST = 1024
"""Sliding windows up to this one are exceeded by the prompt."""


def check_answers(model: PreTrainedModel) -> list[Finding]:
    """Compare logits of a few steps behind a prompt, in every way that a model is run here."""
    tokens, criterion = _prompt_tokens(model), all_long(model)
    ids = random_tokens(model, tokens + STEPS, 3)
    padded = ids.repeat(2, 1)
    mask = torch.ones_like(padded)
    mask[1, :SHORTER] = 0
    findings, dense = [], dict[str, Tensor]()
    for name, rows, seen, cache in (
        ("dynamic cache", ids, None, _dynamic),
        ("static cache", ids, None, _static),
        ("padded batch", padded, mask, _dynamic),
    ):
        own = _logits(model, _dense(model), rows, seen, cache(model, rows))
        ours = _logits(model, adaptive(model, criterion), rows, seen, cache(model, rows))
        dense[name] = own
        findings.append(_finding(model, name, ours, own))
    with failing(model, "in the lab"):
        ours = _lab_logits(model, ids, criterion)
    return [*findings, _finding(model, "lab's engine", ours, dense["dynamic cache"])]


def _dense(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Attend as the model does, or by SDPA where its own kernel (flash, flex) serves no static caches or masks."""
    own = model.config._attn_implementation in ("eager", "sdpa")
    return nullcontext() if own else attention(model, NAME)


def all_long(model: PreTrainedModel) -> AdaptiveCriterion:
    """Return a criterion under which every head reads all keys."""
    return AdaptiveCriterion(
        "qada", RECIPES["qada"], WINDOW, {0.5: float("inf")}, MarginMap({}), None, (PROMPT,), identity(model)
    )


def _prompt_tokens(model: PreTrainedModel) -> int:
    """Return a length beyond the window of sliding layers, if that is short."""
    text = model.config.get_text_config(decoder=True)
    window = getattr(text, "sliding_window", None) or 0
    longest = geometry(model.config).positions - STEPS
    return min(longest, window + SHORTER + PROMPT if window <= WIDEST else PROMPT)


def _dynamic(model: PreTrainedModel, ids: Tensor) -> DynamicCache:
    return DynamicCache(config=model.config)


def _static(model: PreTrainedModel, ids: Tensor) -> StaticCache:
    return StaticCache(config=model.config, max_cache_len=ids.shape[1])


def _finding(model: PreTrainedModel, name: str, ours: Tensor, own: Tensor) -> Finding:
    return compare_logits(model, f"all-long logits, {name}", "the dense ones", ours, own)


@torch.inference_mode()
def _logits(
    model: PreTrainedModel, block: AbstractContextManager[Any], ids: Tensor, mask: Tensor | None, cache: Any
) -> Tensor:
    """Read all but the last STEPS tokens at once and those one by one; return the steps' logits, [B, STEPS, V]."""
    prompt, logits = ids.shape[1] - STEPS, []
    mask = torch.ones_like(ids) if mask is None else mask
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with failing(model, f"with a {type(cache).__name__}"), block:
        for first, last in ((0, prompt), *((at, at + 1) for at in range(prompt, ids.shape[1]))):
            options = {"attention_mask": mask[:, :last], "position_ids": positions[:, first:last]}
            output = model(ids[:, first:last], past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
            logits.append(output.logits[:, -1:].float())
    return torch.cat(logits[1:], 1)


@torch.inference_mode()
def _lab_logits(model: PreTrainedModel, ids: Tensor, criterion: AdaptiveCriterion) -> Tensor:
    """Return the same logits by the lab's engine, which holds the prompt's keys; the model's cache has the rest."""
    prompt, cache, logits = ids.shape[1] - STEPS, DynamicCache(), []
    with attention(model):
        prefix = prefill_densely(model, ids[0, :prompt].tolist())
        shared = SharedPrefix(prefix, [Rows(criterion.built())], WINDOW)
        for at in range(prompt, ids.shape[1]):
            logits.append(next_logits(model, ids[:, at : at + 1], at, cache, shared))
    return torch.stack(logits, 1)
