"""Adaptive prefill: every query attends to its window and decides; the long (query, head) pairs attend to all keys.

Long pairs of one KV head are packed side by side, so that the work grows with their number and not with the blocks that
contain one. They read their window again with the bulk: a few percent more keys, and no rounded result to merge with.
The torch reference is `headscope.kernels.prefill.reference`.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries, D head_dim.
"""

import torch
import triton
from torch import Tensor

from headscope.kernels.common.device import LOG2E, padded
from headscope.kernels.common.layer import Decided, DecisionRule
from headscope.kernels.prefill import windows_hopper
from headscope.kernels.prefill.packed import attend_packed
from headscope.kernels.prefill.packing import pack
from headscope.kernels.prefill.prefix_moments import PrefixMoments
from headscope.kernels.prefill.windows import SINKS, attend_windows, window_tiling


def attend_prompt(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: PrefixMoments,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    forced: Tensor | None = None,
) -> Decided:
    """Attend causally to a whole prompt: over all keys where a (query, head) pair is long, else over its window.

    Args:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        value: [B, K, T, D]; copied with the keys where their strides differ.
        prefix: summaries of the keys.
        rule: labels the pairs by the share of their window.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores, above 0.
        forced: labels that replace the rule's, for benches: 0 local, 1 long, 2 as the rule labels; int8 [B, K, T, G].

    Returns:
        The output, [B, H, T, D], and the labels, [B, H, T].

    Raises:
        ConfigError: the rule decides by group.
    """
    rule.require_heads()
    if key.stride() != value.stride() or key.stride(-1) != 1:
        key, value = key.contiguous(), value.contiguous()
    query = query if query.stride(-1) == 1 else query.contiguous()
    batch, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    groups, group, width = batch * kv_heads, heads // kv_heads, padded(dim)
    window_m, window_n, window_warps, window_stages = window_tiling(width)
    # Tokens before heads, as models go on with it.
    output = torch.empty(batch, tokens, heads, dim, dtype=query.dtype, device=query.device).transpose(1, 2)
    long = torch.empty(groups, tokens * group, dtype=torch.bool, device=query.device)
    strides = *query.stride()[:3], *key.stride()[:3], *output.stride()[:3]
    pairs, bits = tokens * group, scale * LOG2E
    labels, line = long.view(torch.int8), [x.contiguous() for x in (rule.threshold, rule.slope, rule.offset)]
    if windows_hopper.serves(query, key, value, sink, recent):
        windows_hopper.write_windows(query, key, value, output, labels, prefix, line, sink, recent, bits, forced)
    else:
        attend_windows[(triton.cdiv(pairs, window_m), groups)](
            query, key, value, output, labels, labels if forced is None else forced,
            prefix.summary_of_token, prefix.mean, prefix.covariance, *line,
            *strides, bits, tokens, sink, recent, prefix.mean.shape[2], kv_heads,
            group, dim, width, window_m, window_n, SINKS, window_stages, forced is not None, num_warps=window_warps,
        )  # fmt: skip
    attend_packed(query, key, value, output, *pack(long), bits)
    return Decided(output, long.view(batch, kv_heads, tokens, group).transpose(2, 3).reshape(batch, heads, tokens))
