"""Attention of packed long pairs, rows of a KV head that need not be neighbours, over all keys that they see.

Each program takes an even share of the work, as `headscope.kernels.prefill.work_plan` cuts it.
`headscope.kernels.prefill.packed_hopper` does the same for head_dim 128 on a Hopper GPU.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, D head_dim; groups = B K; M rows, N keys of a
tile. A row is a (query, head) pair of one KV head, pair = token x G + head. Scores are in bits (base 2).
"""

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import ample, padded, processors
from headscope.kernels.common.softmax import attended, attended_whole
from headscope.kernels.prefill import packed_hopper
from headscope.kernels.prefill.partial_sums import PartialSums, merge
from headscope.kernels.prefill.windows import rows
from headscope.kernels.prefill.work_plan import WorkPlan, row_tile, share_of


@triton.jit
def _over_keys(
    query, key, value, key_t, position, since, until, wide, bits,
    D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Maxima, sums and outputs, not yet divided, of rows at positions [M] over the key tiles from since to until."""
    n, first, last = tl.arange(0, N), tl.min(position, 0), tl.max(position, 0)
    top, total = tl.full([M], float("-inf"), tl.float32), tl.zeros([M], tl.float32)
    output = tl.zeros([M, WIDTH], tl.float32)
    whole = tl.minimum(tl.maximum((first + 1) // N, since), until)
    for s in tl.range(since * N, whole * N, N, num_stages=STAGES):
        at = (s + n)[:, None].to(tl.int64) * key_t
        top, total, output = attended_whole(query, key + at, value + at, wide, bits, top, total, output, WIDTH > D)
    # Pipelined, the compiler would have the products of both loops wait for each other.
    for s in tl.range(whole * N, tl.minimum(until * N, last + 1), N, num_stages=1):
        at, j = (s + n)[:, None].to(tl.int64) * key_t, s + n
        read, visible = (j <= last)[:, None] & wide, j[None, :] <= position[:, None]
        top, total, output = attended(query, key + at, value + at, read, visible, bits, top, total, output)
    return top, total, output


@triton.jit(do_not_specialize=["size", "groups", "kv_heads"])
def _packed(
    query, key, value, output, pairs, counts, order, begins, cuts, firsts, lines, partial_outputs, partial_masses,
    query_b, query_h, query_t, key_b, key_h, key_t, out_b, out_h, out_t,
    bits, size, groups, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attend to this program's shares: write outputs of whole row tiles, partial sums of the others. size: T G."""
    plan, m, d = WorkPlan(order, begins, cuts, firsts, lines), tl.arange(0, M), tl.arange(0, WIDTH)
    wide = (d < D)[None, :]
    for line in range(tl.load(lines)):
        share = share_of(plan, line)
        for i in range(share.row_tiles):
            tile = row_tile(plan, share, i, groups)
            row, count = tile.number * M + m, tl.load(counts + tile.group)
            pair = tl.load(pairs + tile.group.to(tl.int64) * size + tl.minimum(row, count - 1))
            start = query + rows(pair, tile.group, kv_heads, query_b, query_h, query_t, G)[:, None]
            q = tl.load(start + d[None, :], mask=wide, other=0.0)
            b, k = (tile.group // kv_heads).to(tl.int64), (tile.group % kv_heads).to(tl.int64)
            at = b * key_b + k * key_h + d[None, :]
            top, total, result = _over_keys(
                q, key + at, value + at, key_t, pair // G, tile.since, tile.until, wide, bits, D, WIDTH, M, N, STAGES
            )
            if tile.until - tile.since == tile.steps:
                out = output + rows(pair, tile.group, kv_heads, out_b, out_h, out_t, G)[:, None] + d[None, :]
                exists = (row < count)[:, None] & wide
                tl.store(out, (result / total[:, None]).to(output.dtype.element_ty), mask=exists)
            else:
                sums = 2 * (line * tl.num_programs(0) + tl.program_id(0)) + (tile.since == 0).to(tl.int32)
                tl.store(partial_outputs + (sums * M + m)[:, None] * D + d[None, :], result, mask=wide)
                tl.store(partial_masses + sums * 2 * M + m, top)
                tl.store(partial_masses + (sums * 2 + 1) * M + m, total)


def tiling(width: int, roomy: bool) -> tuple[int, int, int, int]:
    """Return rows and keys of a tile, warps and pipeline stages for a padded head_dim; roomy: much shared memory."""
    return (128, 128 if roomy else 64, 8, 3) if width <= 128 else (64, 32, 8, 2)


def _launch(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, pairs: Tensor, counts: Tensor, bits: float,
    plan: WorkPlan, partial: PartialSums,
) -> None:  # fmt: skip
    dim, kv_heads, width = query.shape[3], key.shape[1], padded(query.shape[3])
    m, n, warps, stages = tiling(width, ample(query))
    _packed[(plan.programs,)](
        query, key, value, output, pairs, counts, *plan, *partial,
        *query.stride()[:3], *key.stride()[:3], *output.stride()[:3], bits, pairs.shape[1], len(pairs), kv_heads,
        query.shape[1] // kv_heads, dim, width, m, n, stages, num_warps=warps,
    )  # fmt: skip


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, pairs: Tensor, counts: Tensor, bits: float
) -> None:
    """Write to output [B, H, T, D] the attention of long pairs over all keys that they see; other pairs keep theirs.

    Args:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        value: [B, K, T, D], of the key's strides.
        output: without gaps in D, as all tensors here.
        pairs: the long ones of each group, in order, int32 [groups, T G].
        counts: their number, int32 [groups].
        bits: factor of the scores times log2(e), above 0.
    """
    dim, kv_heads, programs = query.shape[3], key.shape[1], processors(query)
    launch, (m, n, _, _) = _launch, tiling(padded(dim), ample(query))
    if packed_hopper.serves(query, key, value):
        # One processor less than there are is faster there.
        launch, m, n, programs = packed_hopper.launch, packed_hopper.ROWS, packed_hopper.TILE, programs - 1
    plan = WorkPlan.of(pairs, counts, kv_heads, query.shape[1] // kv_heads, m, n, programs)
    partial = PartialSums.of(plan, m, dim)
    launch(query, key, value, output, pairs, counts, bits, plan, partial)
    merge(plan, pairs, counts, partial, output)
