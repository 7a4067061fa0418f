"""First stage of adaptive prefill on a Hopper GPU, in Gluon: `headscope.kernels.prefill.windows` for head_dim 128.

One warp fetches queries, keys, values and covariances by TMA; three warpgroups, each with 64 rows of neighbouring
tokens, estimate, attend and decide, and give their outputs back by TMA from where their queries lay. A program takes
neighbouring slots, each of 192 rows, and fetches a slot's queries while it attends with those of the one before.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries of a prefix, D head_dim; groups = B K;
N keys of a tile. R = 64 rows of a warpgroup are HEADS x W tokens, HEADS the power of two from G on: row = head x W +
token. Keys and values of a tile come to the same ring one after the other. Scores are in bits (base 2).
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import processors
from headscope.kernels.common.gluon import (
    asked,
    barrier,
    copy,
    copy_back,
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
from headscope.kernels.prefill.prefix_moments import PrefixMoments
from headscope.kernels.prefill.windows import SINKS
from headscope.kernels.prefill.windows_hopper_rows import (
    attended_sinks,
    decide,
    estimated,
    weighed,
    without_before,
    without_from,
)

R, PARTS, TILE, STAGES = 64, 3, 32, 10
"""Rows of a warpgroup, warpgroups that attend, N, and tiles of keys or values that the shared memory holds."""


@jit
def _slots(given, P: tl.constexpr):
    """The program's first slot and the one behind its last: neighbours, which mostly meet the same summary."""
    tokens, groups = given[1], given[2]
    slots, program = (tokens + P - 1) // P * groups, gl.program_id(0)
    return program * slots // gl.num_programs(0), (program + 1) * slots // gl.num_programs(0)


@jit
def _slot(slot, given, P: tl.constexpr, N: tl.constexpr):
    """A slot's group, first token, first recent key, tiles of recent keys, first summary that it meets, and last."""
    meets, tokens, _, _, _, sink, recent = given
    each = (tokens + P - 1) // P
    first = slot % each * P
    last = gl.minimum(first + P, tokens) - 1
    begin = gl.maximum(first - recent + 1, sink)
    tiles = gl.maximum(last + N - begin, 0) // N
    return slot // each, first, begin, tiles, gl.load(meets + first), gl.load(meets + last)


@jit
def _fetch(
    described, memory, given,
    W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The warp that fills the shared memory; behind the last token, tiles are zeros."""
    query, _, key, value, sink_key, sink_value, covariance = described
    queries, square, sinks, ring, query_barriers, square_barriers, sink_barriers, ring_barriers = memory
    kv_heads, summaries = given[3], given[4]
    step, use, held, held_group = 0, 0, -1, -1
    start, end = _slots(given, PARTS * W)
    for slot in range(start, end):
        turn = slot - start
        group, first, begin, tiles, lowest, highest = _slot(slot, given, PARTS * W, N)
        b, k = group // kv_heads, group % kv_heads
        for part in gl.static_range(PARTS):
            i = part * 2 + turn % 2
            mbarrier.wait(query_barriers[1].index(i), ((turn // 2) & 1) ^ 1)
            mbarrier.expect(query_barriers[0].index(i), query.block_type.nbytes)
            copy(query, [b, k, 0, first + part * W, 0], query_barriers[0].index(i), queries.index(i))
        for summary in range(lowest, highest + 1):
            mbarrier.wait(square_barriers[1].index(0), (use & 1) ^ 1)
            # Mostly it is there from the slot before.
            fresh = group * summaries + summary != held
            held = group * summaries + summary
            if fresh:
                mbarrier.expect(square_barriers[0].index(0), covariance.block_type.nbytes)
                copy(covariance, [held * D, 0], square_barriers[0].index(0), square)
            else:
                mbarrier.arrive(square_barriers[0].index(0), count=1)
            use += 1
        mbarrier.wait(sink_barriers[1].index(0), (turn & 1) ^ 1)
        if group != held_group:
            mbarrier.expect(sink_barriers[0].index(0), 2 * sink_key.block_type.nbytes)
            copy(sink_key, [b, k, 0, 0], sink_barriers[0].index(0), sinks.index(0))
            copy(sink_value, [b, k, 0, 0], sink_barriers[0].index(0), sinks.index(1))
        else:
            mbarrier.arrive(sink_barriers[0].index(0), count=1)
        held_group = group
        for i in range(tiles):
            s = step % STAGES
            mbarrier.wait(ring_barriers[1].index(s), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(ring_barriers[0].index(s), key.block_type.nbytes)
            copy(key, [b, k, begin + i * N, 0], ring_barriers[0].index(s), ring.index(s))
            s = (step + 1) % STAGES
            mbarrier.wait(ring_barriers[1].index(s), (((step + 1) // STAGES) & 1) ^ 1)
            mbarrier.expect(ring_barriers[0].index(s), value.block_type.nbytes)
            copy(value, [b, k, begin + i * N, 0], ring_barriers[0].index(s), ring.index(s))
            step += 2


@jit
def _attend(
    PART: tl.constexpr, described, memory, given, rows,
    G: tl.constexpr, W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
    SINKS: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """A warpgroup with its W tokens of every slot."""
    output = described[1]
    queries, _, _, ring, query_barriers, _, _, ring_barriers = memory
    meets, tokens, _, kv_heads, summaries, sink, recent = given
    mean, bits = rows[0], rows[1]
    R: tl.constexpr = 64
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    RESULT: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    row = gl.arange(0, R, layout=gl.SliceLayout(1, RESULT))
    step, use = 0, 0
    start, end = _slots(given, PARTS * W)
    for slot in range(start, end):
        turn = slot - start
        group, first, begin, tiles, lowest, highest = _slot(slot, given, PARTS * W, N)
        first += PART * W
        position = first + row % W
        met = gl.load(meets + gl.minimum(position, tokens - 1))
        place = PART * 2 + turn % 2
        query = queries.index(place).reshape([R, D])
        mbarrier.wait(query_barriers[0].index(place), (turn // 2) & 1)
        rest, use = estimated(query, memory, use, met, lowest, highest, group, summaries, mean, bits, D, RESULT)
        if turn > 0:
            # By now the output of the slot before has left its place.
            hopper.tma.store_wait(0)
            barrier()
            mbarrier.arrive(query_barriers[1].index(PART * 2 + 1 - turn % 2), count=1)
        top, total, result = attended_sinks(query, memory, turn, position, sink, bits, D, SINKS, RESULT)
        begins = gl.maximum(position - recent + 1, sink)
        for i in range(tiles):
            j = begin + i * N
            if (j + N > first - recent + 1) & (j < first + W):
                scores = asked(query, ring, ring_barriers[0], step, N, D, STAGES, SCORES)
                scores = warpgroup_mma_wait(0, deps=[scores])
                mbarrier.arrive(ring_barriers[1].index(step % STAGES), count=1)
                if j < first + W - recent:
                    scores = without_before(scores, j, begins, N)
                if j + N > first + 1:
                    scores = without_from(scores, j, position + 1, N)
                weights, top, total, old = weighed(scores, top, total, bits, query.dtype, RESULT)
                s = (step + 1) % STAGES
                mbarrier.wait(ring_barriers[0].index(s), ((step + 1) // STAGES) & 1)
                result = result * gl.expand_dims(old, 1)
                result = warpgroup_mma(weights, ring.index(s).reshape([N, D]), result, is_async=True)
                result = warpgroup_mma_wait(0, deps=[result])
                mbarrier.arrive(ring_barriers[1].index(s), count=1)
            else:
                for t in gl.static_range(2):
                    mbarrier.wait(ring_barriers[0].index((step + t) % STAGES), ((step + t) // STAGES) & 1)
                    mbarrier.arrive(ring_barriers[1].index((step + t) % STAGES), count=1)
            step += 2
        query.store((result * gl.expand_dims(1.0 / total, 1)).to(query.dtype))
        hopper.fence_async_shared()
        barrier()
        of = [group // kv_heads, group % kv_heads, 0, first, 0]
        copy_back(output, of, queries.index(place))
        decide(top + gl.log2(total) - rest, position, row // W, group, given, rows, G, FORCED)
    hopper.tma.store_wait(0)


@jit
def _barriers(N: tl.constexpr, READERS: tl.constexpr):
    """Barriers of N places: filled, and read by READERS warpgroups."""
    LAYOUT: tl.constexpr = mbarrier.MBarrierLayout()
    there = gl.allocate_shared_memory(gl.int64, [N, 1], LAYOUT)
    read = gl.allocate_shared_memory(gl.int64, [N, 1], LAYOUT)
    for i in gl.static_range(N):
        mbarrier.init(there.index(i), count=1)
        mbarrier.init(read.index(i), count=READERS)
    return there, read


@jit(do_not_specialize=["tokens", "groups", "kv_heads", "summaries", "sink", "recent"])
def _windows_hopper(
    query, output, key, value, sink_key, sink_value, covariance,
    meets, mean, threshold, slope, offset, forced, long,
    bits, tokens, groups, kv_heads, summaries, sink, recent,
    G: tl.constexpr, HEADS: tl.constexpr, W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    STAGES: tl.constexpr, SINKS: tl.constexpr, FORCED: tl.constexpr, num_warps: tl.constexpr,
):  # fmt: skip
    """`attend_windows`; queries, output, keys, values and covariances are TMA's descriptions."""
    queries = gl.allocate_shared_memory(key.dtype, [PARTS * 2, 1, 1, HEADS, W, D], query.layout)
    square = gl.allocate_shared_memory(key.dtype, [D, D], covariance.layout)
    sinks = gl.allocate_shared_memory(key.dtype, [2, 1, 1, SINKS, D], sink_key.layout)
    ring = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], key.layout)
    query_barriers, square_barriers = _barriers(PARTS * 2, 1), _barriers(1, PARTS)
    sink_barriers, ring_barriers = _barriers(1, PARTS), _barriers(STAGES, PARTS)
    described = query, output, key, value, sink_key, sink_value, covariance
    memory = queries, square, sinks, ring, query_barriers, square_barriers, sink_barriers, ring_barriers
    given = meets, tokens, groups, kv_heads, summaries, sink, recent
    rows = mean, bits, threshold, slope, offset, forced, long
    gl.warp_specialize(
        [
            (_attend, (0, described, memory, given, rows, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_attend, (1, described, memory, given, rows, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_attend, (2, described, memory, given, rows, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_fetch, (described, memory, given, W, PARTS, N, D, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )


def serves(query: Tensor, key: Tensor, value: Tensor, sink: int, recent: int) -> bool:
    """Whether `write_windows` takes them: head_dim 128 in half precision, as TMA reads it, few sinks, on a Hopper."""
    alike = all(x.dtype == query.dtype for x in (key, value)) and all(map(readable, (query, key, value)))
    return on_hopper(query) and alike and 0 < sink <= SINKS and recent > 0 and query.shape[1] // key.shape[1] <= R


def write_windows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    long: Tensor,
    prefix: PrefixMoments,
    rule: Sequence[Tensor],
    sink: int,
    recent: int,
    scale_bits: float,
    forced: Tensor | None,
) -> None:
    """Write to output [B, H, T, D] attention over the windows, and to `long` the labels.

    Args:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        value: [B, K, T, D].
        output: without gaps in D.
        long: int8 [B K, T G].
        prefix: summaries of the keys.
        rule: thresholds [B, H], slopes [H] and offsets [H], without gaps.
        sink: first keys of the window, 1 to SINKS.
        recent: its last keys, one at least.
        scale_bits: factor of the scores times log2(e), above 0.
        forced: labels that replace those that are found, as of `headscope.kernels.prefill.attend.prefill`.
    """
    (batch, heads, tokens, dim), kv_heads = query.shape, key.shape[1]
    group, summaries = heads // kv_heads, prefix.mean.shape[2]
    power = triton.next_power_of_2(group)
    # TMA reads no head behind the group's last, and writes none.
    grouped = [x.view(batch, kv_heads, group, tokens, dim) for x in (query, output)]
    square = prefix.covariance.view(-1, dim)
    tile, sinks = [1, 1, TILE, dim], [1, 1, SINKS, dim]
    described = [description(x, [1, 1, power, R // power, dim]) for x in grouped]
    described += [description(x, tile) for x in (key, value)]
    # Nor a key behind the sinks, whose value might be NaN.
    described += [description(x[:, :, :sink], sinks) for x in (key, value)]
    programs = processors(query)
    slots = triton.cdiv(tokens, PARTS * R // power) * batch * kv_heads
    _windows_hopper[(min(programs, slots),)](
        *described, description(square, [dim, dim]),
        prefix.meets, prefix.mean, *rule, long if forced is None else forced, long,
        scale_bits, tokens, batch * kv_heads, kv_heads, summaries, sink, recent,
        group, power, R // power, PARTS, TILE, dim, STAGES, SINKS, forced is not None, num_warps=4,
    )  # fmt: skip
