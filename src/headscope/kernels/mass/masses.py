"""Window and bulk log masses of every query in one pass over its keys: no values, nothing of size T x T.

The torch version is `headscope.heads.mass.log_masses`.

Shapes: B prompts, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, T keys, D head_dim. A program
has M rows, (query, head) pairs of one KV head with the heads of a query side by side, so that any G fills a tile, and
meets N keys at a time. Running sums are [M, LANES]: a column's lane is its number modulo LANES, and tensor cores leave
the columns of a lane in one thread, so that the loop over keys exchanges nothing between threads.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import LOG2E, padded

LANES = tl.constexpr(8)


@triton.jit
def _added(top, total, scores, bits):
    """Add scores [M, N] to running maxima, in bits, and sums [M, LANES]; -inf counts nothing."""
    parts = tl.reshape(scores, [scores.shape[0], scores.shape[1] // LANES, LANES])
    new = tl.maximum(top, tl.max(parts, 1) * bits)
    # Nothing yet: any finite reference does, and -inf less itself would be NaN.
    reference = tl.where(new == float("-inf"), 0.0, new)
    grown = tl.sum(tl.math.exp2(tl.fma(parts, bits, -reference[:, None, :])), 1)
    return new, total * tl.math.exp2(top - reference) + grown


@triton.jit
def _log_mass(top, total):
    """The natural logarithm of the mass behind maxima and sums [M, LANES]: [M]."""
    highest = tl.max(top, 1)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    sums = tl.sum(total * tl.math.exp2(top - reference[:, None]), 1)
    return (reference + tl.math.log2(sums)) * 0.6931471805599453


@triton.jit
def _keys(start, there, wide, PADDED: tl.constexpr):
    """Keys [N, WIDTH]; zero where they are not there or beyond D."""
    if PADDED:
        return tl.load(start, mask=there[:, None] & wide, other=0.0)
    return tl.load(start, mask=there[:, None], other=0.0)


@triton.jit(do_not_specialize=["queries", "sink", "recent"])
def _masses(
    query, key, positions, local, bulk,
    query_b, query_h, query_q, key_b, key_h, key_t,
    bits, queries, sink, recent, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of rows against all keys that they see. `bits`: factor of the scores times log2(e)."""
    tiles = tl.cdiv(queries * G, M)
    # One sequence after the other, whose keys the L2 cache holds; the last queries see most keys and come first.
    slot = tl.program_id(0) % (tiles * kv_heads)
    tile, b = tiles - 1 - slot // kv_heads, (tl.program_id(0) // (tiles * kv_heads)).to(tl.int64)
    k = (slot % kv_heads).to(tl.int64)
    row = tile * M + tl.arange(0, M)
    head, q = k * G + row % G, tl.minimum(row // G, queries - 1)
    d, n = tl.arange(0, WIDTH), tl.arange(0, N)
    wide = (d < D)[None, :]
    position = tl.load(positions + q)
    start = query + b * query_b + head[:, None] * query_h + q[:, None].to(tl.int64) * query_q
    rows = tl.load(start + d[None, :], mask=wide, other=0.0)
    keys = key + b * key_b + k * key_h + n[:, None] * key_t + d[None, :]
    first, last = tl.min(position, 0), tl.max(position, 0)

    empty = tl.full([M, LANES], float("-inf"), tl.float32)
    zero = tl.zeros([M, LANES], tl.float32)
    local_top, local_total, bulk_top, bulk_total = empty, zero, empty, zero
    seen = (position - recent)[:, None]  # the last key behind the recent ones
    for s in range(0, tl.minimum(sink, last + 1), N):
        j = s + n
        part = _keys(keys + tl.cast(s, tl.int64) * key_t, j < tl.minimum(sink, last + 1), wide, WIDTH > D)
        kept = (j < sink)[None, :] & (j[None, :] <= position[:, None])
        scores = tl.where(kept, tl.dot(rows, part.T), float("-inf"))
        local_top, local_total = _added(local_top, local_total, scores, bits)
    # Keys that are bulk to every row need no mask.
    whole = sink + tl.maximum(first - recent + 1 - sink, 0) // N * N
    for s in tl.range(sink, whole, N, num_stages=STAGES):
        at = keys + tl.cast(s, tl.int64) * key_t
        part = tl.load(at, mask=wide, other=0.0) if WIDTH > D else tl.load(at)
        bulk_top, bulk_total = _added(bulk_top, bulk_total, tl.dot(rows, part.T), bits)
    for s in range(whole, last + 1, N):
        j = (s + n)[None, :]
        part = _keys(keys + tl.cast(s, tl.int64) * key_t, s + n <= last, wide, WIDTH > D)
        scores = tl.dot(rows, part.T)
        bulk_top, bulk_total = _added(bulk_top, bulk_total, tl.where(j <= seen, scores, float("-inf")), bits)
        kept = (j > seen) & (j <= position[:, None])
        local_top, local_total = _added(local_top, local_total, tl.where(kept, scores, float("-inf")), bits)

    there = row < queries * G
    out = (b * kv_heads * G + head) * queries + q
    tl.store(local + out, _log_mass(local_top, local_total), mask=there)
    tl.store(bulk + out, _log_mass(bulk_top, bulk_total), mask=there)


def tiling(width: int) -> tuple[int, int, int, int]:
    """Rows and keys of a tile, warps and stages of the pipeline, for a padded head_dim; measured on an H100."""
    return (128, 64, 8, 3) if width <= 128 else (128, 32, 8, 2)


def masses(
    query: Tensor, key: Tensor, query_position: Tensor, sink: int, recent: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Log masses of window and bulk, [B, H, Q] each, float32; -inf where a side is empty.

    Args:
        query: rotated queries, [B, H, Q, D], of bfloat16 or float16; any strides but the last.
        key: rotated keys of positions 0 to T - 1, [B, K, T, D]; H a multiple of K.
        query_position: absolute positions, [Q], all below T; fastest if ascending, for a tile reads what its last sees.
        sink: first keys that are local.
        recent: last keys up to the query's own that are local.
        scale: factor of the scores, above 0.
    """
    batch, heads, queries, dim = query.shape
    kv_heads = key.shape[1]
    local, bulk = (torch.empty(batch, heads, queries, dtype=torch.float32, device=query.device) for _ in range(2))
    query, key = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key))
    width = padded(dim)
    rows, tile, warps, stages = tiling(width)
    grid = (triton.cdiv(queries * heads // kv_heads, rows) * batch * kv_heads,)
    _masses[grid](
        query, key, query_position.int(), local, bulk,
        *query.stride()[:3], *key.stride()[:3],
        scale * LOG2E, queries, sink, recent, kv_heads,
        heads // kv_heads, dim, width, rows, tile, stages, num_warps=warps,
    )  # fmt: skip
    return local, bulk
