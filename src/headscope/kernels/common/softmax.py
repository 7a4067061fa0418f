"""Attention to one tile of keys by an online softmax, for every kernel that reads values.

Shapes: R rows, N keys of the tile, WIDTH >= D head_dim, a power of two. Scores are in bits (base 2).
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)
"""Bits below every score, and finite, so that no difference of maxima is NaN."""


@triton.jit
def attended(query, keys, values, read, visible, bits, top, total, output):
    """Add a tile to maxima and sums [R] and outputs [R, WIDTH], which are not yet divided.

    Args:
        query: [R, WIDTH].
        keys: pointers, [N, WIDTH].
        values: pointers, [N, WIDTH].
        read: which numbers exist, [N, WIDTH]; no others are read: a weight of zero would still meet a NaN value.
        visible: which rows see which keys, [R, N] or [1, N].
        bits: factor of the scores times log2(e).
        top: largest score so far; -inf at first.
        total: sum of exponentials about it.
        output: sum of values under them.
    """
    scores = tl.dot(query, tl.load(keys, mask=read, other=0.0).T) * bits
    scores = tl.where(visible, scores, float("-inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    # While there is no key any finite reference serves, and -inf less itself would be NaN.
    reference = tl.where(new == float("-inf"), 0.0, new)
    weights, old = tl.math.exp2(scores - reference[:, None]), tl.math.exp2(top - reference)
    loaded = tl.load(values, mask=read, other=0.0)
    return new, total * old + tl.sum(weights, 1), tl.dot(weights.to(loaded.dtype), loaded, output * old[:, None])


@triton.jit
def attended_whole(query, keys, values, wide, bits, top, total, output, PADDED: tl.constexpr):
    """Add a tile whose keys all exist and are visible to all rows; PADDED: WIDTH is more than D."""
    tile = tl.load(keys, mask=wide, other=0.0) if PADDED else tl.load(keys)
    scores = tl.dot(query, tile.T)
    new = tl.maximum(top, tl.max(scores, 1) * bits)
    weights, old = tl.math.exp2(tl.fma(scores, bits, -new[:, None])), tl.math.exp2(top - new)
    loaded = tl.load(values, mask=wide, other=0.0) if PADDED else tl.load(values)
    return new, total * old + tl.sum(weights, 1), tl.dot(weights.to(loaded.dtype), loaded, output * old[:, None])
