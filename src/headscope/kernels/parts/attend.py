"""Attention of many queries over several sets of keys, and its log mass, in float32: programs share the keys.

A decoding step has few queries, too few programs to fill a GPU; each program attends to some of the keys, and `_merge`
joins what those of a query found. The torch version is `headscope.lab.parts.attend`.

Shapes: K KV heads, N queries of each, Q positions among them (they vary fastest), C keys, D head_dim. Keys may be each
row's own: then there are B = R K sets of them, rows before KV heads, with N / R queries each. A program handles M rows,
queries of one set, and T keys at a time; S programs find parts of a query's attention.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import LOG2E, padded, processors

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(
    do_not_specialize=["queries", "positions", "count", "share", "splits", "kv_heads", "all_queries", "parts", "before"]
)
def _attend(
    query, key, value, hidden, masses, outputs,
    query_b, query_n, key_b, key_c, value_b, value_c, hidden_b, hidden_q,
    bits, log2e, queries, positions, count, share, splits, kv_heads, all_queries, parts, before,
    D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, T: tl.constexpr, HIDING: tl.constexpr,
):  # fmt: skip
    """Write log masses and outputs of one tile of rows over a share of a set's keys; `before`: parts of other sets."""
    tiles = tl.cdiv(queries, M)
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles % splits
    b = (tl.program_id(0) // (tiles * splits)).to(tl.int64)
    n, d, t = tile * M + tl.arange(0, M), tl.arange(0, WIDTH), tl.arange(0, T)
    exists, wide = n < queries, (d < D)[None, :]
    read = exists[:, None] & wide
    rows = tl.load(query + b * query_b + n[:, None] * query_n + d[None, :], mask=read, other=0.0).to(tl.float32)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    output = tl.zeros([M, WIDTH], tl.float32)
    last = tl.minimum((split + 1) * share, count)
    for first in range(split * share, last, T):
        c = first + t
        seen = (c < last)[:, None] & wide
        at = c[:, None].to(tl.int64)
        keys = tl.load(key + b * key_b + at * key_c + d[None, :], mask=seen, other=0.0).to(tl.float32)
        scores = tl.dot(rows, keys.T, input_precision="tf32x3") * bits
        if HIDING:
            starts = hidden + b * hidden_b + (n % positions)[:, None].to(tl.int64) * hidden_q
            more = tl.load(starts + c[None, :], mask=exists[:, None] & (c < last)[None, :], other=0.0)
            scores += more * log2e
        scores = tl.where((c < last)[None, :], scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        weights, old = tl.math.exp2(scores - new[:, None]), tl.math.exp2(top - new)
        values = tl.load(value + b * value_b + at * value_c + d[None, :], mask=seen, other=0.0).to(tl.float32)
        output = tl.dot(weights, values, output * old[:, None], input_precision="tf32x3")
        top, total = new, total * old + tl.sum(weights, 1)
    place = (b % kv_heads * all_queries + b // kv_heads * queries + n) * parts + before + split
    tl.store(masses + place, (top + tl.math.log2(total)) * LN2, mask=exists)
    tl.store(outputs + place[:, None] * D + d[None, :], output / total[:, None], mask=read)


@triton.jit(do_not_specialize=["count"])
def _merge(masses, outputs, mass, output, count, D: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Join the parts of one query."""
    row, part, d = tl.program_id(0).to(tl.int64), tl.arange(0, PARTS), tl.arange(0, WIDTH)
    exists = part < count
    logs = tl.load(masses + row * count + part, mask=exists, other=float("-inf"))
    top = tl.max(logs, 0)
    weights = tl.exp(logs - top)
    total = tl.sum(weights, 0)
    read = exists[:, None] & (d < D)[None, :]
    means = tl.load(outputs + (row * count + part[:, None]) * D + d[None, :], mask=read, other=0.0)
    tl.store(mass + row, top + tl.log(total))
    tl.store(output + row * D + d, tl.sum(means * weights[:, None], 0) / total, mask=d < D)


def tiling(queries: int, width: int) -> tuple[int, int]:
    """Return rows and keys of a tile for a padded head_dim; two tiles of keys and of values fit a consumer's GPU."""
    return max(16, min(32, 4096 // width, padded(queries))), max(16, min(64, 4096 // width))


def shares(query: Tensor, count: int, rows: int, tile: int) -> tuple[int, int]:
    """Return keys of a program, and programs of a set's keys, for queries [B, N, D]: the GPU should be full once."""
    most = triton.cdiv(processors(query), len(query) * triton.cdiv(query.shape[1], rows))
    each = triton.cdiv(triton.cdiv(count, tile), most) * tile
    return each, triton.cdiv(count, each)


def attend(
    pieces: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | None]], kv_heads: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to all keys of some pieces, at least one each: log masses [K, N] and outputs [K, N, D], float32.

    Args:
        pieces: queries [B, N, D], keys and values [B, C, D] of half precision or float32, and what is added to the
            scores, [1 or B, 1, 1 or Q, C], finite, or None. B is K, or R K for keys of each row's own.
        kv_heads: K.
        scale: factor of the scores, above 0.
    """
    first, dim = pieces[0][0], pieces[0][0].shape[2]
    total, width, plans, parts = first.shape[0] * first.shape[1] // kv_heads, padded(dim), [], 0
    for query, keys, *_ in pieces:
        rows, tile = tiling(query.shape[1], width)
        each, splits = shares(query, keys.shape[1], rows, tile)
        plans.append((rows, tile, each, splits, parts))
        parts += splits
    masses, outputs = first.new_empty(kv_heads, total, parts), first.new_empty(kv_heads, total, parts, dim)

    for (query, keys, values, hidden), (rows, tile, share, splits, before) in zip(pieces, plans, strict=True):
        query, keys, values = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, keys, values))
        hiding = [0, 0] if hidden is None else [0 if hidden.shape[i] == 1 else hidden.stride(i) for i in (0, 2)]
        sets, queries, _ = query.shape
        _attend[(sets * triton.cdiv(queries, rows) * splits,)](
            query, keys, values, query if hidden is None else hidden, masses, outputs,
            *query.stride()[:2], *keys.stride()[:2], *values.stride()[:2], *hiding,
            scale * LOG2E, LOG2E, queries, 1 if hidden is None else hidden.shape[2], keys.shape[1], share, splits,
            kv_heads, total, parts, before,
            dim, width, rows, tile, hidden is not None, num_warps=4, num_stages=2,
        )  # fmt: skip
    if parts == 1:
        return masses[..., 0], outputs[:, :, 0]
    mass, output = first.new_empty(kv_heads, total), first.new_empty(kv_heads, total, dim)
    _merge[(kv_heads * total,)](
        masses, outputs, mass, output, parts, dim, width, triton.next_power_of_2(parts), num_warps=4
    )
    return mass, output
