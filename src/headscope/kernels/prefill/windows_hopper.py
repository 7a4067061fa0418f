"""First launch of adaptive prefill on a Hopper GPU, in Gluon: `headscope.kernels.prefill.windows` for head_dim 128.

One warp fetches queries, keys, values and covariances by TMA; three warpgroups, each with 64 rows of neighbouring
tokens, estimate, attend and decide, and return their outputs by TMA from the memory of their queries. A program takes
neighbouring slots, each of 192 rows, and fetches a slot's queries while it attends with those of the one before.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, S summaries of a prefix, D head_dim; groups = B K;
N keys of a tile. R = 64 rows of a warpgroup are HEADS x W tokens, HEADS the power of two from G on: row = head x W +
token. Keys and values of a tile alternate in one ring. Scores are in bits (base 2).
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import processors
from headscope.kernels.common.gluon import (
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
    start_scores,
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
from headscope.kernels.prefill.windows_hopper_slots import (
    Decision,
    Descriptions,
    Memory,
    Prompt,
    barriers,
    slot_at,
    slots,
)

R, PARTS, TILE, STAGES = 64, 3, 32, 10
"""Rows of a warpgroup, warpgroups that attend, N, and tiles of keys or values in the ring."""


@jit
def _fetch(
    described, memory, prompt,
    W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Fill the shared memory; behind the last token, tiles are zeros."""
    queries, squares, sinks, ring = (
        memory.query_barriers, memory.square_barriers, memory.sink_barriers, memory.ring_barriers
    )  # fmt: skip
    step, use, square, sink_group = 0, 0, -1, -1
    start, end = slots(prompt, PARTS * W)
    for i in range(start, end):
        turn, slot = i - start, slot_at(i, prompt, PARTS * W, N)
        b, k = slot.group // prompt.kv_heads, slot.group % prompt.kv_heads
        for part in gl.static_range(PARTS):
            place = part * 2 + turn % 2
            mbarrier.wait(queries.free.index(place), ((turn // 2) & 1) ^ 1)
            mbarrier.expect(queries.filled.index(place), described.query.block_type.nbytes)
            first = slot.first + part * W
            copy(described.query, [b, k, 0, first, 0], queries.filled.index(place), memory.queries.index(place))
        for summary in range(slot.lowest, slot.highest + 1):
            mbarrier.wait(squares.free.index(0), (use & 1) ^ 1)
            # Mostly it is there from the slot before.
            fresh = slot.group * prompt.summaries + summary != square
            square = slot.group * prompt.summaries + summary
            if fresh:
                mbarrier.expect(squares.filled.index(0), described.covariance.block_type.nbytes)
                copy(described.covariance, [square * D, 0], squares.filled.index(0), memory.square)
            else:
                mbarrier.arrive(squares.filled.index(0), count=1)
            use += 1
        mbarrier.wait(sinks.free.index(0), (turn & 1) ^ 1)
        if slot.group != sink_group:
            mbarrier.expect(sinks.filled.index(0), 2 * described.sink_key.block_type.nbytes)
            copy(described.sink_key, [b, k, 0, 0], sinks.filled.index(0), memory.sinks.index(0))
            copy(described.sink_value, [b, k, 0, 0], sinks.filled.index(0), memory.sinks.index(1))
        else:
            mbarrier.arrive(sinks.filled.index(0), count=1)
        sink_group = slot.group
        for n in range(slot.tiles):
            s = step % STAGES
            mbarrier.wait(ring.free.index(s), ((step // STAGES) & 1) ^ 1)
            mbarrier.expect(ring.filled.index(s), described.key.block_type.nbytes)
            copy(described.key, [b, k, slot.begin + n * N, 0], ring.filled.index(s), memory.ring.index(s))
            s = (step + 1) % STAGES
            mbarrier.wait(ring.free.index(s), (((step + 1) // STAGES) & 1) ^ 1)
            mbarrier.expect(ring.filled.index(s), described.value.block_type.nbytes)
            copy(described.value, [b, k, slot.begin + n * N, 0], ring.filled.index(s), memory.ring.index(s))
            step += 2


@jit
def _attend(
    PART: tl.constexpr, described, memory, prompt, decision,
    G: tl.constexpr, W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
    SINKS: tl.constexpr, FORCED: tl.constexpr,
):  # fmt: skip
    """Attend with a warpgroup's W tokens of every slot."""
    queries, ring, bits = memory.query_barriers, memory.ring_barriers, decision.bits
    sink, recent = prompt.sink, prompt.recent
    R: tl.constexpr = 64
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    RESULT: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    row = gl.arange(0, R, layout=gl.SliceLayout(1, RESULT))
    step, use = 0, 0
    start, end = slots(prompt, PARTS * W)
    for i in range(start, end):
        turn, slot = i - start, slot_at(i, prompt, PARTS * W, N)
        first = slot.first + PART * W
        position = first + row % W
        own_summary = gl.load(prompt.summary_of_token + gl.minimum(position, prompt.tokens - 1))
        place = PART * 2 + turn % 2
        query = memory.queries.index(place).reshape([R, D])
        mbarrier.wait(queries.filled.index(place), (turn // 2) & 1)
        mass, use = estimated(query, memory, use, own_summary, slot, prompt.summaries, decision.mean, bits, D, RESULT)
        if turn > 0:
            # By now the output of the slot before has left its place.
            hopper.tma.store_wait(0)
            barrier()
            mbarrier.arrive(queries.free.index(PART * 2 + 1 - turn % 2), count=1)
        top, total, result = attended_sinks(query, memory, turn, position, sink, bits, D, SINKS, RESULT)
        begins = gl.maximum(position - recent + 1, sink)
        for n in range(slot.tiles):
            j = slot.begin + n * N
            if (j + N > first - recent + 1) & (j < first + W):
                scores = start_scores(query, memory.ring, ring.filled, step, N, D, STAGES, SCORES)
                scores = warpgroup_mma_wait(0, deps=[scores])
                mbarrier.arrive(ring.free.index(step % STAGES), count=1)
                if j < first + W - recent:
                    scores = without_before(scores, j, begins, N)
                if j + N > first + 1:
                    scores = without_from(scores, j, position + 1, N)
                weights, top, total, old = weighed(scores, top, total, bits, query.dtype, RESULT)
                s = (step + 1) % STAGES
                mbarrier.wait(ring.filled.index(s), ((step + 1) // STAGES) & 1)
                result = result * gl.expand_dims(old, 1)
                result = warpgroup_mma(weights, memory.ring.index(s).reshape([N, D]), result, is_async=True)
                result = warpgroup_mma_wait(0, deps=[result])
                mbarrier.arrive(ring.free.index(s), count=1)
            else:
                for t in gl.static_range(2):
                    mbarrier.wait(ring.filled.index((step + t) % STAGES), ((step + t) // STAGES) & 1)
                    mbarrier.arrive(ring.free.index((step + t) % STAGES), count=1)
            step += 2
        query.store((result * gl.expand_dims(1.0 / total, 1)).to(query.dtype))
        hopper.fence_async_shared()
        barrier()
        b, k = slot.group // prompt.kv_heads, slot.group % prompt.kv_heads
        copy_back(described.output, [b, k, 0, first, 0], memory.queries.index(place))
        decide(top + gl.log2(total) - mass, position, row // W, slot.group, prompt, decision, G, FORCED)
    hopper.tma.store_wait(0)


@jit(do_not_specialize=["tokens", "groups", "kv_heads", "summaries", "sink", "recent"])
def _windows_hopper(
    query, output, key, value, sink_key, sink_value, covariance,
    summary_of_token, mean, threshold, slope, offset, forced, long,
    bits, tokens, groups, kv_heads, summaries, sink, recent,
    G: tl.constexpr, HEADS: tl.constexpr, W: tl.constexpr, PARTS: tl.constexpr, N: tl.constexpr, D: tl.constexpr,
    STAGES: tl.constexpr, SINKS: tl.constexpr, FORCED: tl.constexpr, num_warps: tl.constexpr,
):  # fmt: skip
    """`attend_windows` with TMA's descriptions of queries, output, keys, values and covariances."""
    queries = gl.allocate_shared_memory(key.dtype, [PARTS * 2, 1, 1, HEADS, W, D], query.layout)
    square = gl.allocate_shared_memory(key.dtype, [D, D], covariance.layout)
    sinks = gl.allocate_shared_memory(key.dtype, [2, 1, 1, SINKS, D], sink_key.layout)
    ring = gl.allocate_shared_memory(key.dtype, [STAGES, 1, 1, N, D], key.layout)
    query_barriers, square_barriers = barriers(PARTS * 2, 1), barriers(1, PARTS)
    sink_barriers, ring_barriers = barriers(1, PARTS), barriers(STAGES, PARTS)
    described = Descriptions(query, output, key, value, sink_key, sink_value, covariance)
    memory = Memory(queries, square, sinks, ring, query_barriers, square_barriers, sink_barriers, ring_barriers)
    prompt = Prompt(summary_of_token, tokens, groups, kv_heads, summaries, sink, recent)
    decision = Decision(mean, bits, threshold, slope, offset, forced, long)
    gl.warp_specialize(
        [
            (_attend, (0, described, memory, prompt, decision, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_attend, (1, described, memory, prompt, decision, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_attend, (2, described, memory, prompt, decision, G, W, PARTS, N, D, STAGES, SINKS, FORCED)),
            (_fetch, (described, memory, prompt, W, PARTS, N, D, STAGES)),
        ],
        [4, 4, 1],
        [160, 160, 24],
    )


def serves(query: Tensor, key: Tensor, value: Tensor, sink: int, recent: int) -> bool:
    """Return whether `write_windows` takes these: head_dim 128 in half precision, few sinks, on a Hopper GPU."""
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
        rule: thresholds [B, H], slopes [H] and offsets [H], contiguous.
        sink: first keys of the window, 1 to SINKS.
        recent: its last keys, one at least.
        scale_bits: factor of the scores times log2(e), above 0.
        forced: labels that replace the rule's, as in `headscope.kernels.prefill.attend.attend_prompt`.
    """
    (batch, heads, tokens, dim), kv_heads = query.shape, key.shape[1]
    group, summaries = heads // kv_heads, prefix.mean.shape[2]
    power = triton.next_power_of_2(group)
    # TMA neither reads nor writes heads behind the group's last.
    grouped = [x.view(batch, kv_heads, group, tokens, dim) for x in (query, output)]
    square = prefix.covariance.view(-1, dim)
    tile, sinks = [1, 1, TILE, dim], [1, 1, SINKS, dim]
    described = [description(x, [1, 1, power, R // power, dim]) for x in grouped]
    described += [description(x, tile) for x in (key, value)]
    # A key behind the sinks, whose value might be NaN, is not read.
    described += [description(x[:, :, :sink], sinks) for x in (key, value)]
    programs = processors(query)
    slots = triton.cdiv(tokens, PARTS * R // power) * batch * kv_heads
    _windows_hopper[(min(programs, slots),)](
        *described, description(square, [dim, dim]),
        prefix.summary_of_token, prefix.mean, *rule, long if forced is None else forced, long,
        scale_bits, tokens, batch * kv_heads, kv_heads, summaries, sink, recent,
        group, power, R // power, PARTS, TILE, dim, STAGES, SINKS, forced is not None, num_warps=4,
    )  # fmt: skip
