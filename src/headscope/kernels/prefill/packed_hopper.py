"""Attention of packed long pairs on a Hopper GPU, in Gluon: the kernel of `headscope.kernels.prefill.packed` for
head_dim 128.

One warp fetches tiles of keys and values by TMA, two warpgroups attend to them, each with half of a tile's rows. While
the tensor cores add the values of one tile, a warpgroup weighs the next one's scores. A program takes an even piece of
the work, as `headscope.kernels.prefill.work_plan` cuts it.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, D head_dim; groups = B K; M rows, N keys of a
tile. A row is a (query, head) pair of one KV head, pair = token x G + head. Scores are in bits (base 2).
"""

import triton.language as tl
from torch import Tensor

from headscope.kernels.common.gluon import (
    THERE,
    asked,
    barrier,
    copy,
    description,
    gl,
    hopper,
    jit,
    mbarrier,
    on_hopper,
    readable,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from headscope.kernels.common.softmax import LOWEST
from headscope.kernels.prefill.windows import rows as offsets
from headscope.kernels.prefill.work_plan import WorkPlan, row_tile, share

ROWS, TILE, STAGES = 128, 128, 2
"""M, N, and how many tiles of keys and of values the shared memory holds."""
MEMORY = tl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])) if THERE else None
"""How a warpgroup reads and writes rows."""
FIRST = tl.constexpr(-1.0e20)
"""Where maxima start: finite, and above what a masked score becomes, for of a piece's keys some rows may see none."""


@jit
def _fetch(key, value, stages, pieces, groups, kv_heads, N: tl.constexpr, STAGES: tl.constexpr):
    """The warp that fills the stages; behind the last token, tiles are zeros."""
    keys, values, keys_there, keys_read, values_there, values_read = stages
    step = 0
    for line in range(gl.load(pieces[4])):
        mine = share(pieces, line)
        for turn in range(mine[3]):
            _, group, since, until, _ = row_tile(pieces, mine, turn, groups)
            b, k = group // kv_heads, group % kv_heads
            for i in range(since, until):
                s, phase = step % STAGES, ((step // STAGES) & 1) ^ 1
                mbarrier.wait(keys_read.index(s), phase)
                mbarrier.expect(keys_there.index(s), key.block_type.nbytes)
                copy(key, [b, k, i * N, 0], keys_there.index(s), keys.index(s))
                mbarrier.wait(values_read.index(s), phase)
                mbarrier.expect(values_there.index(s), value.block_type.nbytes)
                copy(value, [b, k, i * N, 0], values_there.index(s), values.index(s))
                step += 1


@jit
def _weights(scores, top, total, bits, seen, first, MASKED: tl.constexpr, N: tl.constexpr, SCORES: tl.constexpr):
    """Weights of a tile from key `first` on, maxima, sums, and the factor of what was summed before."""
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
    keys, values, keys_there, keys_read, values_there, values_read = stages
    s, t = step % STAGES, (step - 1) % STAGES
    scores = asked(query, keys, keys_there, step, N, D, STAGES, SCORES)
    mbarrier.wait(values_there.index(t), ((step - 1) // STAGES) & 1)
    result = warpgroup_mma(weights, values.index(t).reshape([N, D]), result, is_async=True)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(keys_read.index(s), count=1)
    found, top, total, old = _weights(scores, top, total, bits, seen, i * N, MASKED, N, SCORES)
    # Without sums and maxima here, the compiler would wait before it finds them.
    result, total, top = warpgroup_mma_wait(0, deps=[result, total, top])
    mbarrier.arrive(values_read.index(t), count=1)
    result = result * gl.expand_dims(gl.convert_layout(old, gl.SliceLayout(1, RESULT)), 1)
    return gl.convert_layout(found.to(query.dtype), gl.DotOperandLayout(0, RESULT, 2)), result, top, total


@jit
def _write(
    outputs, at, result, top, total, whole, first, kv_heads,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, R: tl.constexpr, RESULT: tl.constexpr,
):  # fmt: skip
    """Write the output of a whole row tile's half, or leave a part for `merge`; first: the part with the first key."""
    output, strides, parts, part_masses = outputs
    line, tile, half, group, of, count = at
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    r = half + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
    if whole:
        result = result * gl.expand_dims(gl.convert_layout(1.0 / total, gl.SliceLayout(1, RESULT)), 1)
        i = tile * M + r
        # Read again, for there is no room for them meanwhile.
        pair = gl.load(of + gl.minimum(i, count - 1))
        to = gl.expand_dims(offsets(pair, group, kv_heads, strides[0], strides[1], strides[2], G), 1)
        found = gl.convert_layout(result, MEMORY).to(output.dtype.element_ty)
        gl.store(output + to + d, found, mask=gl.expand_dims(i < count, 1))
    else:
        part = 2 * (line * gl.num_programs(0) + gl.program_id(0)) + first.to(gl.int32)
        gl.store(parts + gl.expand_dims(part * M + r, 1) * D + d, gl.convert_layout(result, MEMORY))
        masses = part_masses + part * 2 * M + half + gl.arange(0, R, layout=top.type.layout)
        gl.store(masses, top)
        gl.store(masses + M, total)


@jit
def _attend(
    PART: tl.constexpr, held, stages, given, rows,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A warpgroup with its half of every tile's rows; `held` has their queries."""
    keys, values, keys_there, keys_read, values_there, values_read = stages
    pairs, counts, pieces, groups = given
    query, query_strides, outputs, bits, size, kv_heads = rows
    R: tl.constexpr = M // 2
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    RESULT: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    step = 0
    for line in range(gl.load(pieces[4])):
        mine = share(pieces, line)
        for turn in range(mine[3]):
            tile, group, since, until, tiles = row_tile(pieces, mine, turn, groups)
            start, of, count = tile * M + PART * R, pairs + group.to(gl.int64) * size, gl.load(counts + group)
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
            pair = gl.load(of + gl.minimum(i, count - 1))
            at = offsets(pair, group, kv_heads, query_strides[0], query_strides[1], query_strides[2], G)
            held.store(gl.load(query + gl.expand_dims(at, 1) + d))
            hopper.fence_async_shared()
            barrier()
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, SCORES))
            seen = gl.load(of + gl.minimum(i, count - 1)) // G + 1
            top = gl.full([R], FIRST, gl.float32, gl.SliceLayout(1, SCORES))
            total, result = gl.zeros_like(top), gl.zeros([R, D], gl.float32, RESULT)
            scores = asked(held, keys, keys_there, step, N, D, STAGES, SCORES)
            scores = warpgroup_mma_wait(0, deps=[scores])
            mbarrier.arrive(keys_read.index(step % STAGES), count=1)
            found, top, total, _ = _weights(scores, top, total, bits, seen, since * N, True, N, SCORES)
            weights = gl.convert_layout(found.to(held.dtype), gl.DotOperandLayout(0, RESULT, 2))
            step += 1
            # Key tiles that all rows see end where the first row's do.
            whole = (gl.load(of + tile * M) // G + 1) // N
            whole = gl.minimum(gl.maximum(whole, since + 1), until)
            for n in range(since + 1, whole):
                weights, result, top, total = _step(
                    held, stages, step, n, weights, result, top, total, bits, seen, False, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            for n in range(whole, until):
                weights, result, top, total = _step(
                    held, stages, step, n, weights, result, top, total, bits, seen, True, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            s = (step - 1) % STAGES
            mbarrier.wait(values_there.index(s), ((step - 1) // STAGES) & 1)
            result = warpgroup_mma(weights, values.index(s).reshape([N, D]), result, is_async=True)
            result = warpgroup_mma_wait(0, deps=[result])
            mbarrier.arrive(values_read.index(s), count=1)
            at = line, tile, PART * R, group, of, count
            _write(outputs, at, result, top, total, until - since == tiles, since == 0, kv_heads, G, D, M, R, RESULT)


@jit(do_not_specialize=["size", "groups", "kv_heads"])
def _packed_hopper(
    key, value, query, output, pairs, counts, order, begins, cuts, firsts, lines, parts, part_masses,
    query_b, query_h, query_t, out_b, out_h, out_t, bits, size, groups, kv_heads,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr, num_warps: tl.constexpr,
):  # fmt: skip
    """Attention of long rows over all keys that they see; keys and values are TMA's descriptions. size: T G."""
    HELD: tl.constexpr = gl.NVMMASharedLayout.get_default_for([M // 2, D], key.dtype)
    BARRIERS: tl.constexpr = mbarrier.MBarrierLayout()
    upper = gl.allocate_shared_memory(key.dtype, [M // 2, D], HELD)
    lower = gl.allocate_shared_memory(key.dtype, [M // 2, D], HELD)
    keys = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], key.layout)
    values = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], value.layout)
    keys_there = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    keys_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    values_there = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    values_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    for s in gl.static_range(STAGES):
        mbarrier.init(keys_there.index(s), count=1)
        mbarrier.init(keys_read.index(s), count=2)
        mbarrier.init(values_there.index(s), count=1)
        mbarrier.init(values_read.index(s), count=2)
    stages = keys, values, keys_there, keys_read, values_there, values_read
    pieces = order, begins, cuts, firsts, lines
    outputs = output, (out_b, out_h, out_t), parts, part_masses
    rows = query, (query_b, query_h, query_t), outputs, bits, size, kv_heads
    gl.warp_specialize(
        [
            (_attend, (0, upper, stages, (pairs, counts, pieces, groups), rows, G, D, M, N, STAGES)),
            (_attend, (1, lower, stages, (pairs, counts, pieces, groups), rows, G, D, M, N, STAGES)),
            (_fetch, (key, value, stages, pieces, groups, kv_heads, N, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `launch` takes them: head_dim 128 in half precision, as TMA reads keys and values, on a Hopper."""
    return on_hopper(query) and all(x.dtype == query.dtype and readable(x) for x in (key, value))


def launch(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, pairs: Tensor, counts: Tensor, bits: float,
    pieces: WorkPlan, parts: tuple[Tensor, Tensor],
) -> None:  # fmt: skip
    """Write the row tiles that `pieces` leaves whole, and to `parts` the others; the rest as `attend_packed` has it."""
    dim, kv_heads = query.shape[3], key.shape[1]
    _packed_hopper[(pieces.programs,)](
        *(description(x, [1, 1, TILE, dim]) for x in (key, value)),
        query, output, pairs, counts, *pieces, *parts, *query.stride()[:3], *output.stride()[:3],
        bits, pairs.shape[1], len(pairs), kv_heads, query.shape[1] // kv_heads, dim, ROWS, TILE, STAGES, num_warps=4,
    )  # fmt: skip
