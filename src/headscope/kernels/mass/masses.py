"""Window and bulk log masses of every query in one pass over its keys, without values or anything of size T x T.

The torch version is `headscope.heads.mass.log_masses`.

Shapes: B prompts, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, T keys, D head_dim. A program
handles M rows, (query, head) pairs of one KV head with the heads of a query side by side, so that any G fills a tile,
and N keys at a time. Running sums are [M, LANES]: a column's lane is its number modulo LANES, and tensor cores leave
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
    scores = tl.reshape(scores, [scores.shape[0], scores.shape[1] // LANES, LANES])
    new = tl.maximum(top, tl.max(scores, 1) * bits)
    # While there is no key any finite reference serves, and -inf less itself would be NaN.
    reference = tl.where(new == float("-inf"), 0.0, new)
    added = tl.sum(tl.math.exp2(tl.fma(scores, bits, -reference[:, None, :])), 1)
    return new, total * tl.math.exp2(top - reference) + added


@triton.jit
def _log_mass(top, total):
    """Natural logarithm of the mass of maxima and sums [M, LANES], [M]."""
    highest = tl.max(top, 1)
    reference = tl.where(highest == float("-inf"), 0.0, highest)
    sums = tl.sum(total * tl.math.exp2(top - reference[:, None]), 1)
    return (reference + tl.math.log2(sums)) * 0.6931471805599453


@triton.jit
def _keys(start, exists, wide, PADDED: tl.constexpr):
    """Keys [N, WIDTH]; zero where they do not exist or beyond D."""
    if PADDED:
        return tl.load(start, mask=exists[:, None] & wide, other=0.0)
    return tl.load(start, mask=exists[:, None], other=0.0)


@triton.jit(do_not_specialize=["queries", "sink", "recent"])
def _masses(
    query, key, positions, local, bulk,
    query_b, query_h, query_q, key_b, key_h, key_t,
    bits, queries, sink, recent, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Write both masses of one tile of rows. `bits`: factor of the scores times log2(e)."""
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
    last_bulk = (position - recent)[:, None]
    for s in range(0, tl.minimum(sink, last + 1), N):
        j = s + n
        tile_keys = _keys(keys + tl.cast(s, tl.int64) * key_t, j < tl.minimum(sink, last + 1), wide, WIDTH > D)
        visible = (j < sink)[None, :] & (j[None, :] <= position[:, None])
        scores = tl.where(visible, tl.dot(rows, tile_keys.T), float("-inf"))
        local_top, local_total = _added(local_top, local_total, scores, bits)
    # Keys that are bulk to every row need no mask.
    whole = sink + tl.maximum(first - recent + 1 - sink, 0) // N * N
    for s in tl.range(sink, whole, N, num_stages=STAGES):
        at = keys + tl.cast(s, tl.int64) * key_t
        tile_keys = tl.load(at, mask=wide, other=0.0) if WIDTH > D else tl.load(at)
        bulk_top, bulk_total = _added(bulk_top, bulk_total, tl.dot(rows, tile_keys.T), bits)
    for s in range(whole, last + 1, N):
        j = (s + n)[None, :]
        tile_keys = _keys(keys + tl.cast(s, tl.int64) * key_t, s + n <= last, wide, WIDTH > D)
        scores = tl.dot(rows, tile_keys.T)
        bulk_top, bulk_total = _added(bulk_top, bulk_total, tl.where(j <= last_bulk, scores, float("-inf")), bits)
        visible = (j > last_bulk) & (j <= position[:, None])
        local_top, local_total = _added(local_top, local_total, tl.where(visible, scores, float("-inf")), bits)

    exists = row < queries * G
    out = (b * kv_heads * G + head) * queries + q
    tl.store(local + out, _log_mass(local_top, local_total), mask=exists)
    tl.store(bulk + out, _log_mass(bulk_top, bulk_total), mask=exists)


def tiling(width: int) -> tuple[int, int, int, int]:
    """Return rows and keys of a tile, warps and pipeline stages for a padded head_dim; measured on an H100."""
    return (128, 64, 8, 3) if width <= 128 else (128, 32, 8, 2)


def masses(
    query: Tensor, key: Tensor, query_position: Tensor, sink: int, recent: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute log masses of window and bulk, [B, H, Q] each, float32; -inf where a side is empty.

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
