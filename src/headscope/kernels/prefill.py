"""Adaptive prefill: every query attends to its window and decides; the long (query, head) pairs attend to all keys.

Long pairs of one KV head are packed side by side, so that the work goes with their number and not with the blocks that
hold one. They read their window again with the bulk: a few percent more keys, and nothing rounded to be merged with.
The torch reference is `headscope.kernels.reference`.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries, D head_dim; M rows, N keys of a tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels import LOG2E, packed_hopper, padded, windows_hopper
from headscope.kernels.layer import Decoded, Rule
from headscope.kernels.packing import packed
from headscope.kernels.prefix import Prefix
from headscope.kernels.softmax import attended, attended_whole
from headscope.kernels.windows import SINKS, attend_windows, rows, window_tiling


@triton.jit(do_not_specialize=["tokens"])
def _packed(
    query, key, value, output, pairs, counts,
    query_b, query_h, query_t, key_b, key_h, key_t, out_b, out_h, out_t,
    bits, tokens, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of M long rows of one KV head, which need be no neighbours, over all keys that they see.

    A program has a row tile: with few of them some wait for the longest, which only `packed_hopper` cuts.
    """
    # One sequence after the other, whose keys the L2 cache holds; the last rows see most keys: their tiles come first.
    slots = tl.cdiv(tokens * G, M) * kv_heads
    slot = tl.program_id(0) % slots
    group = tl.program_id(0) // slots * kv_heads + slot % kv_heads
    count = tl.load(counts + group)
    # Programs beyond the last tile have nothing to do.
    tile = tl.cdiv(count, M) - 1 - slot // kv_heads
    if tile >= 0:
        i, d, n = tile * M + tl.arange(0, M), tl.arange(0, WIDTH), tl.arange(0, N)
        wide = (d < D)[None, :]
        pair = tl.load(pairs + group.to(tl.int64) * tokens * G + tl.minimum(i, count - 1))
        position = pair // G
        first, last = tl.min(position, 0), tl.max(position, 0)
        start = query + rows(pair, group, kv_heads, query_b, query_h, query_t, G)[:, None]
        q = tl.load(start + d[None, :], mask=wide, other=0.0)
        b, k = (group // kv_heads).to(tl.int64), (group % kv_heads).to(tl.int64)
        at = b * key_b + k * key_h + n[:, None] * key_t + d[None, :]
        top, total = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
        result = tl.zeros([M, WIDTH], tl.float32)
        whole = (first + 1) // N * N
        for s in tl.range(0, whole, N, num_stages=STAGES):
            to = at + tl.cast(s, tl.int64) * key_t
            top, total, result = attended_whole(q, key + to, value + to, wide, bits, top, total, result, WIDTH > D)
        # Pipelined, the compiler would have the products of both loops wait for each other.
        for s in tl.range(whole, last + 1, N, num_stages=1):
            to, j = at + tl.cast(s, tl.int64) * key_t, s + n
            read, kept = (j <= last)[:, None] & wide, j[None, :] <= position[:, None]
            top, total, result = attended(q, key + to, value + to, read, kept, bits, top, total, result)
        out = output + rows(pair, group, kv_heads, out_b, out_h, out_t, G)[:, None] + d[None, :]
        tl.store(out, (result / total[:, None]).to(output.dtype.element_ty), mask=(i < count)[:, None] & wide)


def tiling(width: int) -> tuple[int, int, int, int]:
    """Rows and keys of a tile, warps and stages of the pipeline, for a padded head_dim."""
    return (128, 128, 8, 3) if width <= 128 else (64, 32, 8, 2)


def prefill(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: Prefix,
    rule: Rule,
    sink: int,
    recent: int,
    scale: float,
    forced: Tensor | None = None,
) -> Decoded:
    """Causal attention of a whole prompt: over all keys where a (query, head) pair is long, else over its window.

    Args:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        value: [B, K, T, D]; copied with the keys where their strides differ.
        prefix: summaries of the keys.
        rule: labels the pairs by the share of their window.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores, above 0.
        forced: labels that replace those that are found, for benches: 0 local, 1 long, 2 as it is found; int8
            [B, K, T, G].

    Returns:
        The output, [B, H, T, D], and the labels, [B, H, T].
    """
    if key.stride() != value.stride() or key.stride(-1) != 1:
        key, value = key.contiguous(), value.contiguous()
    query = query if query.stride(-1) == 1 else query.contiguous()
    batch, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    groups, group, width = batch * kv_heads, heads // kv_heads, padded(dim)
    window_m, window_n, window_warps, window_stages = window_tiling(width)
    m, n, warps, stages = tiling(width)
    # Tokens before heads, as models go on with it.
    output = torch.empty(batch, tokens, heads, dim, dtype=query.dtype, device=query.device).transpose(1, 2)
    long = torch.empty(groups, tokens * group, dtype=torch.bool, device=query.device)
    strides = *query.stride()[:3], *key.stride()[:3], *output.stride()[:3]
    pairs, bits = tokens * group, scale * LOG2E
    labels, given = long.view(torch.int8), [x.contiguous() for x in (rule.threshold, rule.slope, rule.offset)]
    if windows_hopper.serves(query, key, value, sink, recent):
        windows_hopper.write_windows(query, key, value, output, labels, prefix, given, sink, recent, bits, forced)
    else:
        attend_windows[(triton.cdiv(pairs, window_m), groups)](
            query, key, value, output, labels, labels if forced is None else forced,
            prefix.meets, prefix.mean, prefix.covariance, *given,
            *strides, bits, tokens, sink, recent, prefix.mean.shape[2], kv_heads,
            group, dim, width, window_m, window_n, SINKS, window_stages, forced is not None, num_warps=window_warps,
        )  # fmt: skip
    found = packed(long)
    if packed_hopper.serves(query, key, value):
        packed_hopper.attend_packed(query, key, value, output, *found, bits)
    else:
        _packed[(triton.cdiv(pairs, m) * groups,)](
            query, key, value, output, *found,
            *strides, bits, tokens, kv_heads, group, dim, width, m, n, stages, num_warps=warps,
        )  # fmt: skip
    return Decoded(output, long.view(batch, kv_heads, tokens, group).transpose(2, 3).reshape(batch, heads, tokens))
