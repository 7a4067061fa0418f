"""First stage of adaptive decoding: every KV group attends to its window and decides which of its heads are long.

Shapes: B sequences, H query heads, K KV heads, G = H // K, C clusters, M outliers, D head_dim. A program is one KV head
of one sequence; its R rows are the G query heads, 16 at least. Scores are in bits (base 2): exponentials are exp2.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from headscope.kernels.common.softmax import attended

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def addresses(pages, b, k, j, there, stride_b, stride_h, stride_t, PAGE: tl.constexpr):
    """Offsets of the keys j [N] of a sequence's KV head; PAGE: keys of a page, 0 where they lie in one piece."""
    if PAGE == 0:
        return b * stride_b + k * stride_h + j.to(tl.int64) * stride_t
    page = tl.load(pages + j // PAGE, mask=there, other=0).to(tl.int64)
    return page * stride_b + k * stride_h + (j % PAGE).to(tl.int64) * stride_t


@triton.jit
def is_long(margin, slope, offset, threshold, bulk):
    """Labels of margins [R]: long where the calibrated margin is below the threshold, or NaN, and there is a bulk.

    Infinite margins are certain: they stay as they are.
    """
    calibrated = tl.where(tl.abs(margin) == float("inf"), margin, slope * margin + offset)
    return ((calibrated >= threshold) == 0) & (bulk > 0)


@triton.jit
def _summary(
    group, size, centres, means, covariance, spread, d, wide,
    D: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """Of the bulk: logarithms of shares, in bits, and spreads, [C]; mean keys and values, [C, WIDTH]; covariance."""
    c = tl.arange(0, CENTRES)
    there = c < C
    read = there[:, None] & wide
    at = (group * C + c)[:, None] * D + d[None, :]
    keys, values = tl.load(centres + at, mask=read, other=0.0), tl.load(means + at, mask=read, other=0.0)
    if FULL:
        read = (d < D)[:, None] & wide
        square = tl.load(covariance + (group * D + d[:, None]) * D + d[None, :], mask=read, other=0.0)
    else:
        square = tl.load(covariance + group * D + d, mask=d < D, other=0.0)
    kept = tl.load(size + group * C + c, mask=there, other=0.0)
    wider = tl.load(spread + group * C + c, mask=there, other=0.0)
    return tl.math.log2(kept / tl.sum(kept, 0)), wider, keys, values, square


@triton.jit
def _estimated(query, summary, bits, FULL: tl.constexpr):
    """Log mass in bits of the mean bulk key, [R], and mean value of the bulk, [R, WIDTH]."""
    share, wider, keys, values, square = summary
    exact = query.to(tl.float32)
    turned = tl.dot(query, square) if FULL else exact * square.to(tl.float32)[None, :]
    # Variances are of scores in nats; half of one is added, in bits.
    variance = tl.maximum(tl.sum(turned * exact, 1), 0.0, propagate_nan=tl.PropagateNan.ALL) * (bits * bits * LN2 / 2)
    masses = share[None, :] + tl.dot(query, keys.T) * bits + variance[:, None] * wider[None, :]
    highest = tl.max(masses, 1)
    weights = tl.math.exp2(masses - highest[:, None])
    total = tl.sum(weights, 1)
    return highest + tl.math.log2(total), tl.dot(weights.to(values.dtype), values) / total[:, None]


@triton.jit(do_not_specialize=["sink", "recent"])
def decide(
    query, keys, values, lengths, pages, outlier_keys, outlier_values, counts,
    size, centres, means, covariance, spread, threshold, slope, offset,
    plain, plain_mass, output, long, reading,
    stride_b, stride_h, stride_t, bits, sink, recent, kv_heads, table,
    G: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, PAGE: tl.constexpr,
    M: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, FULL: tl.constexpr,
    LOST: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write the plain window's attention and log mass, what a local head gives, the labels and whether any is long.

    The plain window is what a long head goes on from: outliers are bulk keys, which it reads in the cache. `table`: the
    most pages of a sequence. DEPENDENT: the next launch waits for this one by itself and may come to the GPU before.
    """
    if DEPENDENT:
        gdc_launch_dependents()
    group = tl.program_id(0).to(tl.int64)
    b, k = group // kv_heads, group % kv_heads
    g, d, n = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, N)
    valid, wide, row = g < G, (d < D)[None, :], group * G + tl.minimum(g, G - 1)
    q = tl.load(query + row[:, None] * D + d[None, :], mask=wide, other=0.0)
    length = tl.load(lengths + b)
    bulk = tl.maximum(length - sink - recent, 0)
    head = k * G + tl.minimum(g, G - 1)
    given = tl.load(slope + head), tl.load(offset + head), tl.load(threshold + row)
    # On its way while the window is attended to; a wide head would find no registers for it.
    if WIDTH <= 128:
        summary = _summary(group, size, centres, means, covariance, spread, d, wide, D, C, CENTRES, FULL)
    top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    attention = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, length - bulk, N):
        # The window's keys one after the other: sinks, then those behind the bulk.
        i = first + n
        there = i < length - bulk
        j = tl.where(i < sink, i, i + bulk)
        at = addresses(pages + b * table, b, k, j, there, stride_b, stride_h, stride_t, PAGE)[:, None] + d[None, :]
        read = there[:, None] & wide
        top, total, attention = attended(q, keys + at, values + at, read, there[None, :], bits, top, total, attention)
    tl.store(plain + row[:, None] * D + d[None, :], attention / total[:, None], mask=valid[:, None] & wide)
    tl.store(plain_mass + row, top + tl.math.log2(total), mask=valid)
    held = 0
    if M > 0:
        held = tl.load(counts + group)
        for first in range(0, held, N):
            at = ((group * M + first + n)[:, None]) * D + d[None, :]
            there = (first + n < held)[None, :]
            read = (first + n < held)[:, None] & wide
            top, total, attention = attended(
                q, outlier_keys + at, outlier_values + at, read, there, bits, top, total, attention
            )
    window, mass = attention / total[:, None], top + tl.math.log2(total)
    if WIDTH > 128:
        summary = _summary(group, size, centres, means, covariance, spread, d, wide, D, C, CENTRES, FULL)
    rest, value = _estimated(q, summary, bits, FULL)
    rest += tl.math.log2(tl.maximum(bulk - held, 0).to(tl.float32))
    margin = (mass - rest) * LN2
    if LOST:
        apart = tl.sqrt(tl.sum((value - window) * (value - window), 1))
        # The share's logarithm, from whichever side keeps its digits.
        away = tl.math.exp2(-tl.abs(mass - rest))
        margin = LN2 * (tl.maximum(mass - rest, 0.0) + tl.math.log2(1 + away) - tl.math.log2(apart))
    chosen = is_long(margin, given[0], given[1], given[2], bulk) & valid
    tl.store(output + row[:, None] * D + d[None, :], window.to(output.dtype.element_ty), mask=valid[:, None] & wide)
    tl.store(long + row, chosen.to(tl.int8), mask=valid)
    tl.store(reading + group, tl.max(chosen.to(tl.int32), 0))
