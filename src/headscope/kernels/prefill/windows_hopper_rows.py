"""Work of a warpgroup on its rows besides the recent keys, in Gluon, for `headscope.kernels.prefill.windows_hopper`.

Shapes: R = 64 rows of a warpgroup, N keys of a tile, D head_dim. RESULT is the layout of results [R, D]; vectors [R]
have the layout of its rows. Scores are in bits (base 2). `memory`, `slot`, `prompt` and `decision` are named tuples of
`windows_hopper_slots`.
"""

import triton.language as tl

from headscope.kernels.common.gluon import gl, jit, mbarrier, warpgroup_mma, warpgroup_mma_wait
from headscope.kernels.common.softmax import LOWEST
from headscope.kernels.decode.decide import LN2, calibrated, is_long


@jit
def estimated(
    query, memory, use, own_summary, slot, summaries, mean, bits, D: tl.constexpr, RESULT: tl.constexpr
):  # fmt: skip
    """Return the estimated log mass in bits of the mean bulk key of each row, by its own summary, and the next use."""
    filled, free = memory.square_barriers.filled, memory.square_barriers.free
    d = gl.arange(0, D, layout=gl.SliceLayout(0, RESULT))
    mass = gl.zeros([64], gl.float32, gl.SliceLayout(1, RESULT))
    for summary in range(slot.lowest, slot.highest + 1):
        centre = gl.load(mean + (slot.group * summaries + summary).to(gl.int64) * D + d)
        mbarrier.wait(filled.index(0), use & 1)
        turned = gl.zeros([64, D], gl.float32, RESULT)
        turned = warpgroup_mma(query, memory.square, turned, use_acc=False, is_async=True)
        turned = warpgroup_mma_wait(0, deps=[turned])
        mbarrier.arrive(free.index(0), count=1)
        exact = query.load(RESULT).to(gl.float32)
        variance = gl.sum(turned * exact, 1)
        variance = gl.where(variance < 0, 0.0, variance)  # NaN stays
        estimate = gl.sum(exact * gl.expand_dims(centre, 0), 1) * bits + variance * (bits * bits * LN2 / 2)
        mass = gl.where(own_summary == summary, estimate, mass)
        use += 1
    return mass, use


@jit
def _columns(scores, first, places, N: tl.constexpr):
    """Return the tile's keys, counted from `first` on, [1, N], and a place of each row, [R, 1]."""
    LAYOUT: tl.constexpr = scores.type.layout
    j = gl.expand_dims(gl.arange(0, N, layout=gl.SliceLayout(0, LAYOUT)), 0)
    return j, gl.expand_dims(gl.convert_layout(places - first, gl.SliceLayout(1, LAYOUT)), 1)


@jit
def without_before(scores, first, begins, N: tl.constexpr):
    """Mask scores of the keys from `first` on: -inf before `begins`, [R]."""
    j, begin = _columns(scores, first, begins, N)
    return gl.where(j >= begin, scores, float("-inf"))


@jit
def without_from(scores, first, ends, N: tl.constexpr):
    """Mask scores of the keys from `first` on: -inf from `ends`, [R], on."""
    j, end = _columns(scores, first, ends, N)
    return gl.where(j < end, scores, float("-inf"))


@jit
def weighed(scores, top, total, bits, DTYPE: tl.constexpr, RESULT: tl.constexpr):
    """Return weights for the tensor cores, maxima and sums by rows of the result, and the factor of the sums so far."""
    ROWS: tl.constexpr = gl.SliceLayout(1, RESULT)
    new = gl.maximum(top, gl.convert_layout(gl.max(scores, 1), ROWS) * bits)
    less = gl.expand_dims(gl.convert_layout(-new, gl.SliceLayout(1, scores.type.layout)), 1)
    weights, old = gl.exp2(gl.fma(scores, bits, less)), gl.exp2(top - new)
    total = gl.fma(total, old, gl.convert_layout(gl.sum(weights, 1), ROWS))
    return gl.convert_layout(weights.to(DTYPE), gl.DotOperandLayout(0, RESULT, 2)), new, total, old


@jit
def attended_sinks(
    query, memory, turn, position, sink, bits, D: tl.constexpr, SINKS: tl.constexpr, RESULT: tl.constexpr
):  # fmt: skip
    """Return maxima, sums and results [R, D] over the sinks that rows see."""
    sinks, filled, free = memory.sinks, memory.sink_barriers.filled, memory.sink_barriers.free
    SCORES: tl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, SINKS, 16])
    scores = gl.zeros([64, SINKS], gl.float32, SCORES)
    mbarrier.wait(filled.index(0), turn & 1)
    keys = sinks.index(0).reshape([SINKS, D]).permute((1, 0))
    scores = warpgroup_mma(query, keys, scores, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[scores])
    scores = without_from(scores, 0, gl.minimum(position + 1, sink), SINKS)
    top = gl.full([64], LOWEST, gl.float32, gl.SliceLayout(1, RESULT))
    weights, top, total, _ = weighed(scores, top, gl.zeros_like(top), bits, query.dtype, RESULT)
    result = gl.zeros([64, D], gl.float32, RESULT)
    values = sinks.index(1).reshape([SINKS, D])
    result = warpgroup_mma(weights, values, result, use_acc=False, is_async=True)
    result = warpgroup_mma_wait(0, deps=[result])
    mbarrier.arrive(free.index(0), count=1)
    return top, total, result


@jit
def decide(difference, position, head, group, prompt, decision, G: tl.constexpr, FORCED: tl.constexpr):
    """Write the labels of rows by how many bits the log mass of their window is above that of a mean bulk key."""
    tokens, kv_heads = prompt.tokens, prompt.kv_heads
    bulk = gl.maximum(position + 1 - prompt.sink - prompt.recent, 0)
    margin = (difference - gl.log2(bulk.to(gl.float32))) * LN2
    at = group % kv_heads * G + gl.minimum(head, G - 1)
    threshold = gl.load(decision.threshold + group // kv_heads * kv_heads * G + at)
    margin = calibrated(margin, gl.load(decision.slope + at), gl.load(decision.offset + at))
    label, exists = is_long(margin, threshold, bulk).to(gl.int8), (position < tokens) & (head < G)
    pair = (group.to(gl.int64) * tokens + position) * G + head
    if FORCED:
        forced = gl.load(decision.forced + pair, mask=exists, other=2)
        label = gl.where(forced == 2, label, forced)
    gl.store(decision.long + pair, label, mask=exists)
