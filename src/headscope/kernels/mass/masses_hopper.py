"""Window and bulk log masses on a Hopper GPU, in Gluon: `headscope.kernels.mass.masses._masses` for head_dim 128.

One warp fetches tiles of keys by TMA; warpgroups, each with 64 of a program's rows, sum them as each comes to them, so
that the tensor cores multiply for one while others take exponentials. A program takes many row tiles.

Shapes: B prompts, H query heads, K KV heads, G = H // K, Q queries, T keys, D head_dim; groups = B K; M rows, N keys of
a tile, R = 64 rows of a warpgroup. A row is a (query, head) pair of one KV head, pair = query x G + head. Running sums
are [R, 4]: the four threads that hold a row's scores each keep their own, so that the loop over keys exchanges nothing
between threads. Scores are in bits (base 2).
"""

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import LOG2E, processors
from headscope.kernels.common.gluon import (
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
    warpgroup_mma_wait,
)
from headscope.kernels.common.softmax import LOWEST
from headscope.kernels.mass.sums_hopper import added, added_to_both, log_mass, threads

PARTS, TILE, STAGES = 4, 128, 3
"""Warpgroups that sum, N, and tiles that the shared memory holds."""


@jit
def _slot(turn, positions, queries, groups, kv_heads, G: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """A program's slot of this turn: its group, first row, and key tiles (0: there is no slot)."""
    tiles, programs, program = (queries * G + M - 1) // M, gl.num_programs(0), gl.program_id(0)
    # Forth and back over the programs, so that none always takes the longest of a turn.
    slot = turn * programs + gl.where(turn % 2 == 0, program, programs - 1 - program)
    # One sequence after the other, whose keys the L2 cache holds; the last rows see most keys: their tiles come first.
    sequence, back = slot // (tiles * kv_heads), slot % (tiles * kv_heads) // kv_heads
    start, group = (tiles - 1 - back) * M, sequence * kv_heads + slot % kv_heads
    SIDE: gl.constexpr = triton.next_power_of_2(M)
    row = gl.arange(0, SIDE, layout=gl.BlockedLayout([SIDE // 32], [32], [gl.num_warps()], [0]))
    position = gl.load(positions + gl.minimum((start + gl.minimum(row, M - 1)) // G, queries - 1))
    return group, start, gl.where(slot < tiles * groups, gl.max(position, 0) // N + 1, 0)


@jit
def _turns(queries, groups, G: tl.constexpr, M: tl.constexpr):
    """How many slots a program meets at most."""
    slots = (queries * G + M - 1) // M * groups
    return (slots + gl.num_programs(0) - 1) // gl.num_programs(0)


@jit
def _fetch(key, stages, given, G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr):
    """The warp that fills the stages; behind the last token, tiles are zeros."""
    keys, there, read = stages
    positions, queries, groups, kv_heads = given
    step = 0
    for turn in range(_turns(queries, groups, G, M)):
        group, _, tiles = _slot(turn, positions, queries, groups, kv_heads, G, M, N)
        for i in range(tiles):
            s = step % STAGES
            mbarrier.wait(read.index(s), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(there.index(s), key.block_type.nbytes)
            copy(key, [group // kv_heads, group % kv_heads, i * N, 0], there.index(s), keys.index(s))
            step += 1


@jit
def _scores(held, stages, step, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr, SCORES: tl.constexpr):
    """Scores of the next tile, whose stage may then be filled again."""
    keys, there, read = stages
    scores = warpgroup_mma_wait(0, deps=[asked(held, keys, there, step, N, D, STAGES, SCORES)])
    mbarrier.arrive(read.index(step % STAGES), count=1)
    return scores


@jit
def _sums(
    held, stages, step, lowest, bits, position, tiles, window, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
    SCORES: tl.constexpr,
):  # fmt: skip
    """Maxima and sums [R, 4] of window and bulk over all tiles of a slot, and the next step; `window`: sink, recent."""
    sink, recent = window
    begin = step
    lead = gl.minimum((sink + N - 1) // N, tiles)
    whole = gl.maximum(gl.min(position, 0) - recent + 1, 0) // N
    sums = lowest, gl.zeros_like(lowest), lowest, gl.zeros_like(lowest)
    for i in range(lead):
        scores = _scores(held, stages, step, N, D, STAGES, SCORES)
        sums = added_to_both(sums, scores, bits, i, position, sink, recent, N)
        step += 1
    local_top, local_total, top, total = sums
    for _ in range(gl.maximum(whole - lead, 0)):
        scores = _scores(held, stages, step, N, D, STAGES, SCORES)
        top, total = added(top, total, threads(scores), bits)
        step += 1
    sums = local_top, local_total, top, total
    for i in range(step - begin, tiles):
        scores = _scores(held, stages, step, N, D, STAGES, SCORES)
        sums = added_to_both(sums, scores, bits, i, position, sink, recent, N)
        step += 1
    return sums, step


@jit
def _add_up(
    PART: tl.constexpr, held, stages, given, rows,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A warpgroup with its share of every tile's rows; `held` has their queries."""
    positions, queries, groups, kv_heads = given
    query, strides, local, bulk, bits, sink, recent = rows
    R: tl.constexpr = 64
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    MEMORY: tl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    lowest = gl.max(gl.max(threads(gl.full([R, N], LOWEST, gl.float32, SCORES)), 1), 2)
    step = 0
    for turn in range(_turns(queries, groups, G, M)):
        group, start, tiles = _slot(turn, positions, queries, groups, kv_heads, G, M, N)
        if tiles > 0:
            b, k = (group // kv_heads).to(gl.int64), (group % kv_heads).to(gl.int64)
            start += PART * R
            row = start + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
            q = gl.minimum(row // G, queries - 1).to(gl.int64)
            at = b * strides[0] + (k * G + row % G) * strides[1] + q * strides[2]
            found = gl.load(query + gl.expand_dims(at, 1) + d)
            barrier()  # nobody multiplies the last tile's queries any more
            held.store(found)
            hopper.fence_async_shared()
            barrier()
            row = start + gl.arange(0, R, layout=gl.SliceLayout(1, SCORES))
            q = gl.minimum(row // G, queries - 1)
            position = gl.load(positions + q)
            sums, step = _sums(
                held, stages, step, lowest, bits, position, tiles, (sink, recent),
                N, D, STAGES, SCORES,
            )  # fmt: skip
            out, there = (group.to(gl.int64) * G + row % G) * queries + q, row < queries * G
            log = gl.convert_layout(log_mass(sums[0], sums[1]), gl.SliceLayout(1, SCORES))
            gl.store(local + out, log, mask=there)
            log = gl.convert_layout(log_mass(sums[2], sums[3]), gl.SliceLayout(1, SCORES))
            gl.store(bulk + out, log, mask=there)


@jit(do_not_specialize=["queries", "groups", "kv_heads", "sink", "recent"])
def _masses_hopper(
    key, query, positions, local, bulk, query_b, query_h, query_q,
    bits, queries, groups, kv_heads, sink, recent,
    G: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
    num_warps: tl.constexpr,
):  # fmt: skip
    """Log masses [B, H, Q] of all rows; the keys are TMA's description."""
    M: gl.constexpr = PARTS * 64
    HELD: tl.constexpr = gl.NVMMASharedLayout.get_default_for([64, D], key.dtype)
    BARRIERS: tl.constexpr = mbarrier.MBarrierLayout()
    held = gl.allocate_shared_memory(key.dtype, [PARTS, 64, D], HELD)
    keys = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], key.layout)
    there = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], BARRIERS)
    for s in gl.static_range(STAGES):
        mbarrier.init(there.index(s), count=1)
        mbarrier.init(read.index(s), count=PARTS)
    stages = keys, there, read
    given = positions, queries, groups, kv_heads
    rows = query, (query_b, query_h, query_q), local, bulk, bits, sink, recent
    gl.warp_specialize(
        [
            (_add_up, (0, held.index(0), stages, given, rows, G, D, M, N, STAGES)),
            (_add_up, (1, held.index(1), stages, given, rows, G, D, M, N, STAGES)),
            (_add_up, (2, held.index(2), stages, given, rows, G, D, M, N, STAGES)),
            (_add_up, (3, held.index(3), stages, given, rows, G, D, M, N, STAGES)),
            (_fetch, (key, stages, given, G, M, N, STAGES)),
        ],
        [4, 4, 4, 1],
        [112, 112, 112, 32],
    )


def serves(query: Tensor, key: Tensor) -> bool:
    """Whether `masses` takes them: head_dim 128 in half precision, keys as TMA reads them, on a Hopper GPU."""
    return on_hopper(query) and query.dtype == key.dtype and readable(key)


def write_masses(
    query: Tensor, key: Tensor, positions: Tensor, local: Tensor, bulk: Tensor, sink: int, recent: int, scale: float
) -> None:
    """Write the log masses of window and bulk to `local` and `bulk`, [B, H, Q], float32; -inf where a side is empty.

    Args:
        query: rotated queries, [B, H, Q, D].
        key: rotated keys of positions 0 to T - 1, [B, K, T, D].
        positions: absolute positions of the queries, int32 [Q], all below T.
        local: without gaps.
        bulk: without gaps.
        sink: first keys that are local.
        recent: last keys up to the query's own that are local.
        scale: factor of the scores, above 0.
    """
    (batch, heads, queries, dim), kv_heads = query.shape, key.shape[1]
    groups, group = batch * kv_heads, heads // kv_heads
    programs = processors(query)
    _masses_hopper[(min(programs, triton.cdiv(queries * group, 64 * PARTS) * groups),)](
        description(key, [1, 1, TILE, dim]), query, positions, local, bulk, *query.stride()[:3],
        scale * LOG2E, queries, groups, kv_heads, sink, recent,
        group, dim, PARTS, TILE, STAGES, num_warps=4,
    )  # fmt: skip
