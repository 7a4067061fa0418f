"""Running maxima and sums of scores in a warpgroup's registers, in Gluon: what `headscope.kernels.mass.masses_hopper`
adds up.

Four threads hold a row's scores, and each keeps its own maximum and sum, [R, 4] of all rows: adding a tile exchanges
nothing between threads. Maxima start at a finite number far below all scores, so that no difference of them is NaN.

Shapes: R rows, N keys of a tile. Scores are as the tensor cores leave them; maxima are in bits, scores times `bits`.
"""

import triton.language as tl

from headscope.kernels.common.gluon import gl, jit


@jit
def threads(scores):
    """[R, N] as [R, N / 8, 4, 2]: one of four threads holds two columns in eight of a row."""
    return scores.reshape([scores.shape[0], scores.shape[1] // 8, 4, 2])


@jit
def added(top, total, scores, bits):
    """Add scores [R, N / 8, 4, 2] to running maxima and sums [R, 4]; -inf counts nothing."""
    new = gl.maximum(top, gl.max(gl.max(scores, 1), 2) * bits)
    less = gl.expand_dims(gl.expand_dims(-new, 2), 1)
    grown = gl.sum(gl.sum(gl.exp2(gl.fma(scores, bits, less)), 1), 2)
    return new, gl.fma(total, gl.exp2(top - new), grown)


@jit
def _added_half(top, total, scores, bits):
    """Add scores [R, N / 8, 4], one of a thread's two columns in eight; -inf counts nothing."""
    new = gl.maximum(top, gl.max(scores, 1) * bits)
    grown = gl.sum(gl.exp2(gl.fma(scores, bits, gl.expand_dims(-new, 1))), 1)
    return new, gl.fma(total, gl.exp2(top - new), grown)


@jit
def _like(x, other):
    """[R, 4] or [R] in a layout that differs by name alone."""
    return gl.convert_layout(x, other, assert_trivial=True)


@jit
def added_to_both(sums, scores, bits, i, position, sink, recent, N: tl.constexpr):
    """Add scores of tile i to the sides of their keys: maxima and sums of window and bulk."""
    halves = gl.split(threads(scores))
    HALF: gl.constexpr = halves[0].type.layout
    RUNNING: gl.constexpr = gl.SliceLayout(1, HALF)
    BEFORE: gl.constexpr = sums[0].type.layout
    local_top, local_total = _like(sums[0], RUNNING), _like(sums[1], RUNNING)
    bulk_top, bulk_total = _like(sums[2], RUNNING), _like(sums[3], RUNNING)
    column = gl.arange(0, N // 8, layout=gl.SliceLayout(1, gl.SliceLayout(0, HALF))) * 8
    column = gl.expand_dims(gl.expand_dims(column, 1), 0)
    lane = gl.expand_dims(gl.arange(0, 4, layout=gl.SliceLayout(0, RUNNING)) * 2 + i * N, 0)
    position = gl.expand_dims(_like(position, gl.SliceLayout(1, RUNNING)), 1)
    size = gl.expand_dims(gl.maximum(position - recent + 1 - sink, 0) + 0 * lane, 1).to(gl.uint32)
    # By halves, for there are no registers for two copies of all scores.
    for half in gl.static_range(2):
        # Unsigned, keys before the first bulk one are far behind the last.
        bulk = (column + gl.expand_dims(lane + half - sink, 1)).to(gl.uint32) < size
        seen = gl.where(column <= gl.expand_dims(position - lane - half, 1), halves[half], float("-inf"))
        far = gl.where(bulk, seen, float("-inf"))
        bulk_top, bulk_total = _added_half(bulk_top, bulk_total, far, bits)
        near = gl.where(far == float("-inf"), seen, float("-inf"))
        local_top, local_total = _added_half(local_top, local_total, near, bits)
    return _like(local_top, BEFORE), _like(local_total, BEFORE), _like(bulk_top, BEFORE), _like(bulk_total, BEFORE)


@jit
def log_mass(top, total):
    """The natural logarithm of the mass behind maxima and sums [R, 4]: [R]."""
    highest = gl.max(top, 1)
    return (highest + gl.log2(gl.sum(total * gl.exp2(top - gl.expand_dims(highest, 1)), 1))) * 0.6931471805599453
