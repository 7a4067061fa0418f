"""Attention of packed long pairs on a Hopper GPU, in Gluon: `headscope.kernels.prefill.packed` for head_dim 128.

One warp fetches tiles of keys and values by TMA; two warpgroups attend to them, each with half of a row tile. While the
tensor cores add the values of one tile, a warpgroup computes the weights of the next. Each program takes an even share
of the work, as `headscope.kernels.prefill.work_plan` cuts it.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, D head_dim; groups = B K; M rows, N keys of a
tile. A row is a (query, head) pair of one KV head, pair = token x G + head. Scores are in bits (base 2).
"""

from typing import Any, NamedTuple

import triton.language as tl
from torch import Tensor

from headscope.kernels.common.gluon import (
    THERE,
    barrier,
    copy,
    description,
    gl,
    hopper,
    jit,
    mbarrier,
    on_hopper,
    readable,
    start_scores,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from headscope.kernels.common.softmax import LOWEST
from headscope.kernels.prefill.partial_sums import PartialSums
from headscope.kernels.prefill.windows import rows as offsets
from headscope.kernels.prefill.work_plan import WorkPlan, row_tile, share_of

ROWS, TILE, STAGES = 128, 128, 2
"""M, N, and tiles of keys and of values that the shared memory holds."""
MEMORY = tl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])) if THERE else None
"""Layout in which a warpgroup reads and writes rows."""
FIRST = tl.constexpr(-1.0e20)
"""Where maxima start: finite, and above what a masked score becomes, for some rows may see no key of a share."""


class Stages(NamedTuple):
    """Tiles of keys and values in shared memory, and barriers: filled, and free again."""

    key_tiles: Any
    value_tiles: Any
    keys_filled: Any
    keys_free: Any
    values_filled: Any
    values_free: Any


class LongPairs(NamedTuple):
    """Packed pairs, their numbers and the plan of the work."""

    pairs: Any
    counts: Any
    plan: Any
    groups: Any


class Outputs(NamedTuple):
    """Output, its strides of B, H and T, and memory of partial sums."""

    output: Any
    strides: Any
    partial_outputs: Any
    partial_masses: Any


class Rows(NamedTuple):
    """Queries, their strides of B, H and T, outputs, and numbers: factor of the scores, T G, K."""

    query: Any
    strides: Any
    outputs: Any
    bits: Any
    size: Any
    kv_heads: Any


@jit
def _fetch(key, value, stages, plan, groups, kv_heads, N: tl.constexpr, STAGES: tl.constexpr):
    """Fill the stages; behind the last token, tiles are zeros."""
    step = 0
    for line in range(gl.load(plan.lines)):
        share = share_of(plan, line)
        for i in range(share.row_tiles):
            tile = row_tile(plan, share, i, groups)
            b, k = tile.group // kv_heads, tile.group % kv_heads
            for n in range(tile.since, tile.until):
                s, phase = step % STAGES, ((step // STAGES) & 1) ^ 1
                mbarrier.wait(stages.keys_free.index(s), phase)
                mbarrier.expect(stages.keys_filled.index(s), key.block_type.nbytes)
                copy(key, [b, k, n * N, 0], stages.keys_filled.index(s), stages.key_tiles.index(s))
                mbarrier.wait(stages.values_free.index(s), phase)
                mbarrier.expect(stages.values_filled.index(s), value.block_type.nbytes)
                copy(value, [b, k, n * N, 0], stages.values_filled.index(s), stages.value_tiles.index(s))
                step += 1


@jit
def _weights(scores, top, total, bits, seen, first, MASKED: tl.constexpr, N: tl.constexpr, SCORES: tl.constexpr):
    """Weights of a tile from key `first` on, maxima, sums, and the factor of the sums so far."""
    if MASKED:
        j = first + gl.arange(0, N, layout=gl.SliceLayout(0, SCORES))
        scores = gl.where(gl.expand_dims(j, 0) < gl.expand_dims(seen, 1), scores, LOWEST)
    new = gl.maximum(top, gl.max(scores, 1) * bits)
    weights, old = gl.exp2(scores * bits - gl.expand_dims(new, 1)), gl.exp2(top - new)
    return weights, new, total * old + gl.sum(weights, 1), old


@jit
def _step(
    query, stages, step, i, weights, result, top, total, bits, seen, MASKED: tl.constexpr,
    N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr, SCORES: tl.constexpr, RESULT: tl.constexpr,
):  # fmt: skip
    """Scores and weights of tile i, while the tensor cores add the values of the tile before under `weights`."""
    s, t = step % STAGES, (step - 1) % STAGES
    scores = start_scores(query, stages.key_tiles, stages.keys_filled, step, N, D, STAGES, SCORES)
    mbarrier.wait(stages.values_filled.index(t), ((step - 1) // STAGES) & 1)
    result = warpgroup_mma(weights, stages.value_tiles.index(t).reshape([N, D]), result, is_async=True)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(stages.keys_free.index(s), count=1)
    new_weights, top, total, old = _weights(scores, top, total, bits, seen, i * N, MASKED, N, SCORES)
    # Without sums and maxima here, the compiler would wait before it computes them.
    result, total, top = warpgroup_mma_wait(0, deps=[result, total, top])
    mbarrier.arrive(stages.values_free.index(t), count=1)
    result = result * gl.expand_dims(gl.convert_layout(old, gl.SliceLayout(1, RESULT)), 1)
    return gl.convert_layout(new_weights.to(query.dtype), gl.DotOperandLayout(0, RESULT, 2)), result, top, total


@jit
def _write(
    outputs, pairs, line, tile, half, count, result, top, total, kv_heads,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, R: tl.constexpr, RESULT: tl.constexpr,
):  # fmt: skip
    """Write the output of half a row tile, or its partial sum for `merge` if the share has not all of its keys.

    Args:
        outputs: `Outputs`.
        pairs: of the group.
        line: of the plan.
        tile: `RowTile`.
        half: first row.
        count: long pairs of the group.
        result: not yet divided, [R, D].
        top: maxima, [R].
        total: sums, [R].
        kv_heads: K.
    """
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    r = half + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
    if tile.until - tile.since == tile.steps:
        result = result * gl.expand_dims(gl.convert_layout(1.0 / total, gl.SliceLayout(1, RESULT)), 1)
        i = tile.number * M + r
        # Read again, for there is no room for them meanwhile.
        pair = gl.load(pairs + gl.minimum(i, count - 1))
        strides = outputs.strides
        at = gl.expand_dims(offsets(pair, tile.group, kv_heads, strides[0], strides[1], strides[2], G), 1)
        rounded = gl.convert_layout(result, MEMORY).to(outputs.output.dtype.element_ty)
        gl.store(outputs.output + at + d, rounded, mask=gl.expand_dims(i < count, 1))
    else:
        sums = 2 * (line * gl.num_programs(0) + gl.program_id(0)) + (tile.since == 0).to(gl.int32)
        row = gl.expand_dims(sums * M + r, 1)
        gl.store(outputs.partial_outputs + row * D + d, gl.convert_layout(result, MEMORY))
        masses = outputs.partial_masses + sums * 2 * M + half + gl.arange(0, R, layout=top.type.layout)
        gl.store(masses, top)
        gl.store(masses + M, total)


@jit
def _attend(
    HALF: tl.constexpr, query, stages, long, rows,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Attend with one half of every row tile; query: shared memory of its queries, [R, D]."""
    plan, bits = long.plan, rows.bits
    R: tl.constexpr = M // 2
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    RESULT: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    step = 0
    for line in range(gl.load(plan.lines)):
        share = share_of(plan, line)
        for turn in range(share.row_tiles):
            tile = row_tile(plan, share, turn, long.groups)
            start, pairs = tile.number * M + HALF * R, long.pairs + tile.group.to(gl.int64) * rows.size
            count, strides = gl.load(long.counts + tile.group), rows.strides
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
            pair = gl.load(pairs + gl.minimum(i, count - 1))
            at = offsets(pair, tile.group, rows.kv_heads, strides[0], strides[1], strides[2], G)
            query.store(gl.load(rows.query + gl.expand_dims(at, 1) + d))
            hopper.fence_async_shared()
            barrier()
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, SCORES))
            seen = gl.load(pairs + gl.minimum(i, count - 1)) // G + 1
            top = gl.full([R], FIRST, gl.float32, gl.SliceLayout(1, SCORES))
            total, result = gl.zeros_like(top), gl.zeros([R, D], gl.float32, RESULT)
            scores = start_scores(query, stages.key_tiles, stages.keys_filled, step, N, D, STAGES, SCORES)
            scores = warpgroup_mma_wait(0, deps=[scores])
            mbarrier.arrive(stages.keys_free.index(step % STAGES), count=1)
            weights, top, total, _ = _weights(scores, top, total, bits, seen, tile.since * N, True, N, SCORES)
            weights = gl.convert_layout(weights.to(query.dtype), gl.DotOperandLayout(0, RESULT, 2))
            step += 1
            # Key tiles that all rows see end where the first row's do.
            whole = (gl.load(pairs + tile.number * M) // G + 1) // N
            whole = gl.minimum(gl.maximum(whole, tile.since + 1), tile.until)
            for n in range(tile.since + 1, whole):
                weights, result, top, total = _step(
                    query, stages, step, n, weights, result, top, total, bits, seen, False, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            for n in range(whole, tile.until):
                weights, result, top, total = _step(
                    query, stages, step, n, weights, result, top, total, bits, seen, True, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            s = (step - 1) % STAGES
            mbarrier.wait(stages.values_filled.index(s), ((step - 1) // STAGES) & 1)
            result = warpgroup_mma(weights, stages.value_tiles.index(s).reshape([N, D]), result, is_async=True)
            result = warpgroup_mma_wait(0, deps=[result])
            mbarrier.arrive(stages.values_free.index(s), count=1)
            _write(
                rows.outputs, pairs, line, tile, HALF * R, count, result, top, total, rows.kv_heads, G, D, M, R, RESULT
            )


@jit(do_not_specialize=["size", "groups", "kv_heads"])
def _packed_hopper(
    key, value, query, output, pairs, counts, order, begins, cuts, firsts, lines, partial_outputs, partial_masses,
    query_b, query_h, query_t, out_b, out_h, out_t, bits, size, groups, kv_heads,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr, num_warps: tl.constexpr,
):  # fmt: skip
    """`headscope.kernels.prefill.packed` with TMA's descriptions of keys and values. size: T G."""
    QUERY: tl.constexpr = gl.NVMMASharedLayout.get_default_for([M // 2, D], key.dtype)
    BARRIERS: tl.constexpr = mbarrier.MBarrierLayout()
    upper = gl.allocate_shared_memory(key.dtype, [M // 2, D], QUERY)
    lower = gl.allocate_shared_memory(key.dtype, [M // 2, D], QUERY)
    key_tiles = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], key.layout)
    value_tiles = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], value.layout)
    keys_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    keys_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    values_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    values_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    for s in gl.static_range(STAGES):
        mbarrier.init(keys_filled.index(s), count=1)
        mbarrier.init(keys_free.index(s), count=2)
        mbarrier.init(values_filled.index(s), count=1)
        mbarrier.init(values_free.index(s), count=2)
    stages = Stages(key_tiles, value_tiles, keys_filled, keys_free, values_filled, values_free)
    plan = WorkPlan(order, begins, cuts, firsts, lines)
    long = LongPairs(pairs, counts, plan, groups)
    outputs = Outputs(output, (out_b, out_h, out_t), partial_outputs, partial_masses)
    rows = Rows(query, (query_b, query_h, query_t), outputs, bits, size, kv_heads)
    gl.warp_specialize(
        [
            (_attend, (0, upper, stages, long, rows, G, D, M, N, STAGES)),
            (_attend, (1, lower, stages, long, rows, G, D, M, N, STAGES)),
            (_fetch, (key, value, stages, plan, groups, kv_heads, N, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether `launch` takes these: head_dim 128 in half precision, keys that TMA reads, on a Hopper GPU."""
    return on_hopper(query) and all(x.dtype == query.dtype and readable(x) for x in (key, value))


def launch(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, pairs: Tensor, counts: Tensor, bits: float,
    plan: WorkPlan, partial: PartialSums,
) -> None:  # fmt: skip
    """Write outputs of row tiles that the plan leaves whole, and partial sums of the others; see `attend_packed`."""
    dim, kv_heads = query.shape[3], key.shape[1]
    _packed_hopper[(plan.programs,)](
        *(description(x, [1, 1, TILE, dim]) for x in (key, value)),
        query, output, pairs, counts, *plan, *partial, *query.stride()[:3], *output.stride()[:3],
        bits, pairs.shape[1], len(pairs), kv_heads, query.shape[1] // kv_heads, dim, ROWS, TILE, STAGES, num_warps=4,
    )  # fmt: skip
