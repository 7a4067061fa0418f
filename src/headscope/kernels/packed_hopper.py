"""Attention of packed long pairs on a Hopper GPU, in Gluon: `headscope.kernels.prefill._packed` for head_dim 128.

One warp fetches tiles of keys and values by TMA, two warpgroups attend to them, each with half of a tile's rows. While
the tensor cores add the values of one tile, a warpgroup weighs the next one's scores. A program takes many row tiles.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, D head_dim; groups = B K; M rows, N keys of a
tile. A row is a (query, head) pair of one KV head, pair = token x G + head. Scores are in bits (base 2).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.gluon import (
    TensorDescriptor,
    asked,
    barrier,
    copy,
    gl,
    hopper,
    jit,
    mbarrier,
    on_hopper,
    warpgroup_mma,
    warpgroup_mma_wait,
)

ROWS, TILE, STAGES = 128, 128, 2
"""M, N, and how many tiles of keys and of values the shared memory holds."""


@jit
def _slots(counts, groups, M: tl.constexpr):
    """Tiles of the group with most rows, for every group: what the programs share out, empty ones too."""
    most = gl.load(counts)
    for group in range(1, groups):
        most = gl.maximum(most, gl.load(counts + group))
    return (most + M - 1) // M * groups


@jit
def _tile(pairs, counts, slot, tokens, groups, G: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """A slot's group, its pairs, their number, the first row, key tiles (0: an empty slot), and those all rows see."""
    group = slot % groups
    count = gl.load(counts + group)
    # The last rows see most keys: their tiles come first.
    tile = (count + M - 1) // M - 1 - slot // groups
    start = gl.maximum(tile, 0) * M
    of = pairs + group.to(gl.int64) * (tokens * G + 1)
    last = gl.load(of + gl.maximum(gl.minimum(count, start + M) - 1, 0)) // G
    return group, of, count, start, gl.where(tile >= 0, (last + N) // N, 0), (gl.load(of + start) // G + 1) // N


@jit
def _fetch(key, value, stages, given, G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr):
    """The warp that fills the stages; behind the last token, tiles are zeros."""
    keys, values, keys_there, keys_read, values_there, values_read = stages
    pairs, counts, tokens, groups = given
    slots, step = _slots(counts, groups, M), 0
    for slot in range(gl.program_id(0), slots, gl.num_programs(0)):
        group, _, _, _, tiles, _ = _tile(pairs, counts, slot, tokens, groups, G, M, N)
        for i in range(tiles):
            s, phase = step % STAGES, ((step // STAGES) & 1) ^ 1
            mbarrier.wait(keys_read.index(s), phase)
            mbarrier.expect(keys_there.index(s), key.block_type.nbytes)
            copy(key, [group, i * N, 0], keys_there.index(s), keys.index(s))
            mbarrier.wait(values_read.index(s), phase)
            mbarrier.expect(values_there.index(s), value.block_type.nbytes)
            copy(value, [group, i * N, 0], values_there.index(s), values.index(s))
            step += 1


@jit
def _weights(scores, top, total, bits, seen, first, MASKED: tl.constexpr, N: tl.constexpr, SCORES: tl.constexpr):
    """Weights of a tile from key `first` on, maxima, sums, and the factor of what was summed before."""
    if MASKED:
        j = first + gl.arange(0, N, layout=gl.SliceLayout(0, SCORES))
        scores = gl.where(gl.expand_dims(j, 0) < gl.expand_dims(seen, 1), scores, -1.0e30)
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
def _rows(pair, group, kv_heads, strides, G: tl.constexpr):
    """Offsets of the pairs in a tensor [B, H, T, D]."""
    b, k = (group // kv_heads).to(gl.int64), (group % kv_heads).to(gl.int64)
    return gl.expand_dims(b * strides[0] + (k * G + pair % G) * strides[1] + (pair // G).to(gl.int64) * strides[2], 1)


@jit
def _attend(
    PART: tl.constexpr, held, stages, given, rows,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A warpgroup with its half of every tile's rows; `held` has their queries."""
    keys, values, keys_there, keys_read, values_there, values_read = stages
    pairs, counts, tokens, groups = given
    query, query_strides, output, out_strides, bits, kv_heads = rows
    R: tl.constexpr = M // 2
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])
    RESULT: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    MEMORY: tl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    d = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, MEMORY)), 0)
    slots, step = _slots(counts, groups, M), 0
    for slot in range(gl.program_id(0), slots, gl.num_programs(0)):
        group, of, count, start, tiles, whole = _tile(pairs, counts, slot, tokens, groups, G, M, N)
        if tiles > 0:
            start += PART * R
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
            pair = gl.load(of + gl.minimum(i, count - 1))
            held.store(gl.load(query + _rows(pair, group, kv_heads, query_strides, G) + d))
            hopper.fence_async_shared()
            barrier()
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, SCORES))
            seen = gl.load(of + gl.minimum(i, count - 1)) // G + 1
            # Every row sees the first key: from the first tile on, maxima are finite.
            top = gl.full([R], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
            total, result = gl.zeros_like(top), gl.zeros([R, D], gl.float32, RESULT)
            scores = asked(held, keys, keys_there, step, N, D, STAGES, SCORES)
            scores = warpgroup_mma_wait(0, deps=[scores])
            mbarrier.arrive(keys_read.index(step % STAGES), count=1)
            found, top, total, _ = _weights(scores, top, total, bits, seen, 0, True, N, SCORES)
            weights = gl.convert_layout(found.to(held.dtype), gl.DotOperandLayout(0, RESULT, 2))
            step += 1
            whole = gl.maximum(whole, 1)
            for n in range(1, whole):
                weights, result, top, total = _step(
                    held, stages, step, n, weights, result, top, total, bits, seen, False, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            for n in range(whole, tiles):
                weights, result, top, total = _step(
                    held, stages, step, n, weights, result, top, total, bits, seen, True, N, D, STAGES, SCORES, RESULT
                )
                step += 1
            s = (step - 1) % STAGES
            mbarrier.wait(values_there.index(s), ((step - 1) // STAGES) & 1)
            result = warpgroup_mma(weights, values.index(s).reshape([N, D]), result, is_async=True)
            result = warpgroup_mma_wait(0, deps=[result])
            mbarrier.arrive(values_read.index(s), count=1)
            result = result * gl.expand_dims(gl.convert_layout(1.0 / total, gl.SliceLayout(1, RESULT)), 1)
            # Read again, for there is no room for them meanwhile.
            i = start + gl.arange(0, R, layout=gl.SliceLayout(1, MEMORY))
            at = _rows(gl.load(of + gl.minimum(i, count - 1)), group, kv_heads, out_strides, G) + d
            found = gl.convert_layout(result, MEMORY).to(output.dtype.element_ty)
            gl.store(output + at, found, mask=gl.expand_dims(i < count, 1))


@jit(do_not_specialize=["tokens", "groups", "kv_heads"])
def _packed_hopper(
    key, value, query, output, pairs, counts, query_b, query_h, query_t, out_b, out_h, out_t,
    bits, tokens, groups, kv_heads,
    G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, STAGES: tl.constexpr, num_warps: tl.constexpr,
):  # fmt: skip
    """Attention of long rows over all keys that they see; keys and values are TMA's descriptions."""
    HELD: tl.constexpr = gl.NVMMASharedLayout.get_default_for([M // 2, D], key.dtype)
    BARRIERS: tl.constexpr = mbarrier.MBarrierLayout()
    upper = gl.allocate_shared_memory(key.dtype, [M // 2, D], HELD)
    lower = gl.allocate_shared_memory(key.dtype, [M // 2, D], HELD)
    keys = gl.allocate_shared_memory(key.dtype, [STAGES, 1, N, D], key.layout)
    values = gl.allocate_shared_memory(key.dtype, [STAGES, 1, N, D], value.layout)
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
    given = pairs, counts, tokens, groups
    rows = query, (query_b, query_h, query_t), output, (out_b, out_h, out_t), bits, kv_heads
    gl.warp_specialize(
        [
            (_attend, (0, upper, stages, given, rows, G, D, M, N, STAGES)),
            (_attend, (1, lower, stages, given, rows, G, D, M, N, STAGES)),
            (_fetch, (key, value, stages, given, G, M, N, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )


def serves(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend_packed` takes them: head_dim 128 in half precision, keys and values without gaps, on a Hopper."""
    return on_hopper(query) and all(
        x.dtype == query.dtype and x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (key, value)
    )


def attend_packed(
    query: Tensor, key: Tensor, value: Tensor, output: Tensor, pairs: Tensor, counts: Tensor, scale_bits: float
) -> None:
    """Write to output [B, H, T, D] the attention of long pairs over all keys that they see; the rest stays.

    Args:
        query: rotated, [B, H, T, D].
        key: rotated, [B, K, T, D].
        value: [B, K, T, D].
        output: its D has no gaps.
        pairs: the long ones of each group, in order, int32 [groups, T G + 1].
        counts: how many they are, int32 [groups].
        scale_bits: factor of the scores times log2(e), above 0.
    """
    batch, heads, tokens, dim = query.shape
    kv_heads = key.shape[1]
    groups, group = batch * kv_heads, heads // kv_heads
    # Three dimensions, so that a tile ends with its head.
    shape, strides, block = [groups, tokens, dim], [tokens * dim, dim, 1], [1, TILE, dim]
    layout = gl.NVMMASharedLayout.get_default_for(block, gl.float16)
    programs = torch.cuda.get_device_properties(query.device).multi_processor_count - 1
    _packed_hopper[(min(programs, triton.cdiv(tokens * group, ROWS) * groups),)](
        *(TensorDescriptor(x, shape, strides, block, layout) for x in (key, value)),
        query, output, pairs, counts, *query.stride()[:3], *output.stride()[:3],
        scale_bits, tokens, groups, kv_heads, group, dim, ROWS, TILE, STAGES, num_warps=4,
    )  # fmt: skip
