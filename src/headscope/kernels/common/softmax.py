"""Attention to a tile of keys by an online softmax, which all kernels with values share.

Shapes: R rows, N keys of the tile, WIDTH >= D head_dim, a power of two. Scores are in bits (base 2).
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1.0e30)
"""Bits below every score, and finite, so that no difference of maxima is NaN."""


@triton.jit
def attended(query, keys, values, read, kept, bits, top, total, output):
    """Add a tile to maxima and sums [R] and outputs [R, WIDTH], which are not yet divided.

    Args:
        query: [R, WIDTH].
        keys: pointers, [N, WIDTH].
        values: pointers, [N, WIDTH].
        read: what of them exists, [N, WIDTH]; the rest is not read, for a weight of zero would still meet a NaN value.
        kept: which rows see which keys, [R, N] or [1, N].
        bits: factor of the scores times log2(e).
        top: largest score so far; -inf at first.
        total: sum of exponentials about it.
        output: sum of values under them.
    """
    scores = tl.dot(query, tl.load(keys, mask=read, other=0.0).T) * bits
    scores = tl.where(kept, scores, float("-inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    # Nothing yet: any finite reference does, and -inf less itself would be NaN.
    reference = tl.where(new == float("-inf"), 0.0, new)
    weights, old = tl.math.exp2(scores - reference[:, None]), tl.math.exp2(top - reference)
    loaded = tl.load(values, mask=read, other=0.0)
    return new, total * old + tl.sum(weights, 1), tl.dot(weights.to(loaded.dtype), loaded, output * old[:, None])


@triton.jit
def attended_whole(query, keys, values, wide, bits, top, total, output, PADDED: tl.constexpr):
    """The same for a tile that exists and that all rows see; PADDED: WIDTH is more than D."""
    part = tl.load(keys, mask=wide, other=0.0) if PADDED else tl.load(keys)
    scores = tl.dot(query, part.T)
    new = tl.maximum(top, tl.max(scores, 1) * bits)
    weights, old = tl.math.exp2(tl.fma(scores, bits, -new[:, None])), tl.math.exp2(top - new)
    loaded = tl.load(values, mask=wide, other=0.0) if PADDED else tl.load(values)
    return new, total * old + tl.sum(weights, 1), tl.dot(weights.to(loaded.dtype), loaded, output * old[:, None])
