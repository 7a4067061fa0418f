"""First launch of adaptive prefill: every query attends to its window and decides which of its heads are long.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries of a prefix, D head_dim. A program
handles M rows, (query, head) pairs of one KV head, the heads of a query side by side: pair = token x G + head.
"""

import triton
import triton.language as tl

from headscope.kernels.common.softmax import LOWEST
from headscope.kernels.decode.decide import LN2, calibrated, is_long

SINKS = 16
"""Sinks that one tile holds."""


@triton.jit
def rows(pair, group, kv_heads, stride_b, stride_h, stride_t, G: tl.constexpr):
    """Offsets of the pairs [M] of a KV head in a tensor [B, H, T, D] with these strides."""
    b, k = (group // kv_heads).to(tl.int64), (group % kv_heads).to(tl.int64)
    return b * stride_b + (k * G + pair % G) * stride_h + (pair // G).to(tl.int64) * stride_t


@triton.jit
def _estimated(
    query, own_summary, mean, covariance, group, summaries, d, wide, bits, D: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Estimate the log mass in bits of the mean bulk key for rows [M], each by its own summary."""
    mass, exact = tl.zeros([M], tl.float32), query.to(tl.float32)
    # One covariance at a time: most tiles use a single summary, and a pipeline's copies fill the shared memory.
    for summary in tl.range(tl.min(own_summary, 0), tl.max(own_summary, 0) + 1, num_stages=1):
        at = group.to(tl.int64) * summaries + summary
        centre = tl.load(mean + at * D + d, mask=d < D, other=0.0)
        square = tl.load(covariance + (at * D + d[:, None]) * D + d[None, :], mask=(d < D)[:, None] & wide, other=0.0)
        variance = tl.sum(tl.dot(query, square) * exact, 1)
        variance = tl.maximum(variance, 0.0, propagate_nan=tl.PropagateNan.ALL)
        estimate = tl.sum(exact * centre[None, :], 1) * bits + variance * (bits * bits * LN2 / 2)
        mass = tl.where(own_summary == summary, estimate, mass)
    return mass


@triton.jit
def _attended(query, keys, values, read, edge, s, begins, ends, bits, top, total, output, N: tl.constexpr):
    """Add the tile of keys from s on to maxima, sums and outputs, as `headscope.kernels.common.softmax.attended` does.

    At an edge each row sees the keys from `begins` to before `ends`, else all of them. Maxima start at LOWEST.
    """
    scores = tl.dot(query, tl.load(keys, mask=read, other=0.0).T)
    if edge:
        j = s + tl.arange(0, N)[None, :]
        scores = tl.where((j >= begins[:, None]) & (j < ends[:, None]), scores, float("-inf"))
    new = tl.maximum(top, tl.max(scores, 1) * bits)
    weights, old = tl.math.exp2(tl.fma(scores, bits, -new[:, None])), tl.math.exp2(top - new)
    loaded = tl.load(values, mask=read, other=0.0)
    return new, total * old + tl.sum(weights, 1), tl.dot(weights.to(loaded.dtype), loaded, output * old[:, None])


@triton.jit(do_not_specialize=["tokens", "sink", "recent", "summaries"])
def attend_windows(
    query, key, value, output, long, forced, summary_of_token, mean, covariance, threshold, slope, offset,
    query_b, query_h, query_t, key_b, key_h, key_t, out_b, out_h, out_t,
    bits, tokens, sink, recent, summaries, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    SINKS: tl.constexpr, STAGES: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """Write attention over the windows and the labels, [B K, T G]."""
    group = tl.program_id(1)
    pair, d, n = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, WIDTH), tl.arange(0, N)
    exists, wide = pair < tokens * G, (d < D)[None, :]
    pair = tl.minimum(pair, tokens * G - 1)
    position = pair // G
    start = query + rows(pair, group, kv_heads, query_b, query_h, query_t, G)[:, None]
    q = tl.load(start + d[None, :], mask=wide, other=0.0)
    # First, while no result takes registers.
    own_summary = tl.load(summary_of_token + position)
    mean_mass = _estimated(q, own_summary, mean, covariance, group, summaries, d, wide, bits, D, M)
    b, k = (group // kv_heads).to(tl.int64), (group % kv_heads).to(tl.int64)
    head_keys = b * key_b + k * key_h + d[None, :]
    top, total, result = tl.full([M], LOWEST, tl.float32), tl.zeros([M], tl.float32), tl.zeros([M, WIDTH], tl.float32)
    first, last = tl.min(position, 0), tl.max(position, 0)
    few, zeros, sink_ends = tl.arange(0, SINKS), tl.zeros_like(position), tl.minimum(position + 1, sink)
    sinks = tl.minimum(last + 1, sink)
    for s in tl.range(0, sinks, SINKS, num_stages=1):
        j = s + few
        at = head_keys + j[:, None].to(tl.int64) * key_t
        read = (j < sinks)[:, None] & wide
        top, total, result = _attended(
            q, key + at, value + at, read, True, s, zeros, sink_ends, bits, top, total, result, SINKS
        )
    begins = tl.maximum(position - recent + 1, sink)
    tile_keys = head_keys + n[:, None] * key_t
    for s in tl.range(tl.maximum(first - recent + 1, sink), last + 1, N, num_stages=STAGES):
        at = tile_keys + tl.cast(s, tl.int64) * key_t
        read = (s + n <= last)[:, None] & wide
        edge = (s <= last - recent) | (s + N - 1 > first)
        top, total, result = _attended(
            q, key + at, value + at, read, edge, s, begins, position + 1, bits, top, total, result, N
        )
    out = output + rows(pair, group, kv_heads, out_b, out_h, out_t, G)[:, None] + d[None, :]
    tl.store(out, (result * (1.0 / total)[:, None]).to(output.dtype.element_ty), mask=exists[:, None] & wide)
    bulk = tl.maximum(position + 1 - sink - recent, 0)
    margin = (top + tl.math.log2(total) - mean_mass - tl.math.log2(bulk.to(tl.float32))) * LN2
    head = k * G + pair % G
    slope, offset = tl.load(slope + head), tl.load(offset + head)
    threshold = tl.load(threshold + b * kv_heads * G + head)
    label = is_long(calibrated(margin, slope, offset), threshold, bulk).to(tl.int8)
    at = group.to(tl.int64) * tokens * G + pair
    if FORCED:
        forced_label = tl.load(forced + at)
        label = tl.where(forced_label == 2, label, forced_label)
    tl.store(long + at, label, mask=exists)


def window_tiling(width: int) -> tuple[int, int, int, int]:
    """Return rows and recent keys of a tile, warps and pipeline stages for a padded head_dim."""
    return (64, 32, 4, 3) if width <= 128 else (64, 32, 8, 2)
