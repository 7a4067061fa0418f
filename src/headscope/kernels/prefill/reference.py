"""Adaptive prefill in plain torch, in its inputs' precision: what the prefill kernels are tested against.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries, D head_dim.
"""

import torch
from torch import Tensor

from headscope.kernels.common.layer import Decided, DecisionRule, calibrated, is_long


def attend_prompt(
    query: Tensor, key: Tensor, value: Tensor, mean: Tensor, covariance: Tensor, summary_of_token: Tensor,
    rule: DecisionRule, sink: int, recent: int, scale: float,
) -> Decided:  # fmt: skip
    """Attend causally, [B, H, T, D]: over all keys where a (query, head) pair is long, else over its window.

    Args:
        query: [B, H, T, D].
        key: [B, K, T, D].
        value: [B, K, T, D].
        mean: of the bulk's keys, [B, K, S, D].
        covariance: of the same keys, [B, K, S, D, D].
        summary_of_token: index of the summary that each token uses, [T].
        rule: labels the pairs by the share of their window.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores.

    Raises:
        ConfigError: the rule decides by group.
    """
    rule.require_heads()
    group = query.shape[1] // key.shape[1]
    key, value, mean, covariance = (x.repeat_interleave(group, 1) for x in (key, value, mean, covariance))
    output, long = torch.empty_like(query), torch.empty(query.shape[:3], dtype=torch.bool, device=query.device)
    for summary in range(mean.shape[2]):  # the scores of its tokens alone are in memory
        at = (summary_of_token == summary).nonzero()[:, 0]
        moments = mean[:, :, summary], covariance[:, :, summary]
        decided = _attend_tokens(query[:, :, at], at, key, value, *moments, rule, sink, recent, scale)
        output[:, :, at], long[:, :, at] = decided.output, decided.long
    return Decided(output, long)


def summary_of_each_token(starts: Tensor, tokens: int) -> Tensor:
    """Index of the summary that each token uses, [T], by their starts, [S]; tokens before the first use it too."""
    position = torch.arange(tokens, device=starts.device)
    return torch.searchsorted(starts, position, right=True).sub(1).clamp(min=0)


def _attend_tokens(
    query: Tensor, at: Tensor, key: Tensor, value: Tensor, mean: Tensor, covariance: Tensor, rule: DecisionRule,
    sink: int, recent: int, scale: float,
) -> Decided:  # fmt: skip
    """Attend with queries [B, H, Q, D] at positions [Q] that use one summary; keys are repeated for all H."""
    position = torch.arange(key.shape[2], device=key.device)
    behind = at[:, None] - position
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(behind < 0, -torch.inf)
    local = (position < sink) | (behind < recent)
    windowed = scores.masked_fill(~local, -torch.inf)
    variance = torch.einsum("bhtd,bhde,bhte->bht", query, covariance, query).clamp(min=0) * scale**2
    bulk = (at + 1 - sink - recent).clamp(min=0)
    mass = (query @ mean[..., None])[..., 0] * scale + variance / 2 + bulk.to(query.dtype).log()
    margin = windowed.logsumexp(-1) - mass
    margin = calibrated(margin, rule.slope[:, None], rule.offset[:, None])
    long = is_long(margin, rule.threshold[..., None]) & (bulk > 0)
    output = torch.where(long[..., None], scores.softmax(-1) @ value, windowed.softmax(-1) @ value)
    return Decided(output, long)
