"""First launch of adaptive decoding: each KV group attends to its window and decides which of its heads are long.

Shapes: B sequences, H query heads, K KV heads, G = H // K, C clusters, M outliers, D head_dim. A program handles one KV
head of one sequence; its R rows are the G query heads, padded to 16 or more. WIDTH >= D and CENTRES >= C are powers of
two, N keys of a tile. Masses and scores are in bits (base 2): exponentials are exp2.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from headscope.kernels.common.softmax import attended

LN2 = tl.constexpr(0.6931471805599453)


class SummaryTiles(NamedTuple):
    """The summary of one KV head's bulk, loaded.

    Attributes:
        log_share: each cluster's share of the keys, in bits, [CENTRES].
        spread: [CENTRES].
        key_means: [CENTRES, WIDTH].
        value_means: [CENTRES, WIDTH].
        covariance: [WIDTH, WIDTH], or its diagonal, [WIDTH].
    """

    log_share: tl.tensor
    spread: tl.tensor
    key_means: tl.tensor
    value_means: tl.tensor
    covariance: tl.tensor


@triton.jit
def addresses(pages, b, k, j, exists, stride_b, stride_h, stride_t, PAGE: tl.constexpr):
    """Offsets of the keys j [N] of a sequence's KV head; PAGE: keys of a page, 0 where they lie in one piece."""
    if PAGE == 0:
        return b * stride_b + k * stride_h + j.to(tl.int64) * stride_t
    page = tl.load(pages + j // PAGE, mask=exists, other=0).to(tl.int64)
    return page * stride_b + k * stride_h + (j % PAGE).to(tl.int64) * stride_t


@triton.jit
def calibrated(margin, slope, offset):
    """Calibrate margins [R]; infinite ones are certain and stay as they are."""
    return tl.where(tl.abs(margin) == float("inf"), margin, slope * margin + offset)


@triton.jit
def is_long(margin, threshold, bulk):
    """Label calibrated margins: long where one is below the threshold, or NaN, and there is a bulk."""
    return ((margin >= threshold) == 0) & (bulk > 0)


@triton.jit
def _log_sum(x, valid):
    """Natural logarithm of the sum of exp(x) over valid rows [R], a scalar; NaN if one of them is."""
    x = tl.where(valid, x, float("-inf"))
    top = tl.max(x, 0)
    # An infinite row less itself would be NaN.
    reference = tl.where(tl.abs(top) == float("inf"), 0.0, top)
    return reference + tl.log(tl.sum(tl.exp(x - reference), 0))


@triton.jit
def _log_sigmoid(x):
    return tl.minimum(x, 0.0) - tl.log(1 + tl.exp(-tl.abs(x)))


@triton.jit
def group_margin(margin, valid, LOST: tl.constexpr):
    """Combine calibrated margins of a group's heads, the valid ones of [R], into one.

    Losses add up as squared norms; shares as the masses that are kept and lost.
    """
    if LOST:
        return _log_sum(-2 * margin, valid) / -2
    return _log_sum(_log_sigmoid(margin), valid) - _log_sum(_log_sigmoid(-margin), valid)


@triton.jit
def _load_summary(
    group, size, key_means, value_means, covariance, spread, d, wide,
    D: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, CENTRES)
    exists = c < C
    read = exists[:, None] & wide
    at = (group * C + c)[:, None] * D + d[None, :]
    keys, values = tl.load(key_means + at, mask=read, other=0.0), tl.load(value_means + at, mask=read, other=0.0)
    if FULL:
        read = (d < D)[:, None] & wide
        square = tl.load(covariance + (group * D + d[:, None]) * D + d[None, :], mask=read, other=0.0)
    else:
        square = tl.load(covariance + group * D + d, mask=d < D, other=0.0)
    sizes = tl.load(size + group * C + c, mask=exists, other=0.0)
    spreads = tl.load(spread + group * C + c, mask=exists, other=0.0)
    return SummaryTiles(tl.math.log2(sizes / tl.sum(sizes, 0)), spreads, keys, values, square)


@triton.jit
def _estimated(query, summary, bits, FULL: tl.constexpr):
    """Estimate the log mass of the mean bulk key, [R], and the mean value of the bulk, [R, WIDTH]."""
    exact = query.to(tl.float32)
    turned = tl.dot(query, summary.covariance) if FULL else exact * summary.covariance.to(tl.float32)[None, :]
    # Variances are of scores in nats; half of one is added, in bits.
    variance = tl.maximum(tl.sum(turned * exact, 1), 0.0, propagate_nan=tl.PropagateNan.ALL) * (bits * bits * LN2 / 2)
    means = summary.log_share[None, :] + tl.dot(query, summary.key_means.T) * bits
    masses = means + variance[:, None] * summary.spread[None, :]
    highest = tl.max(masses, 1)
    weights = tl.math.exp2(masses - highest[:, None])
    total = tl.sum(weights, 1)
    mass = highest + tl.math.log2(total)
    return mass, tl.dot(weights.to(summary.value_means.dtype), summary.value_means) / total[:, None]


@triton.jit
def _over_outliers(
    query, keys, values, first_row, count, d, wide, bits, top, total, output, D: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """Add outliers to maxima, sums and outputs; those of the KV head begin at a row of [B K M, D]."""
    n = tl.arange(0, N)
    for first in range(0, count, N):
        at = ((first_row + first + n)[:, None]) * D + d[None, :]
        seen = (first + n < count)[None, :]
        read = (first + n < count)[:, None] & wide
        top, total, output = attended(query, keys + at, values + at, read, seen, bits, top, total, output)
    return top, total, output


@triton.jit
def _margin(window_mass, window, bulk_mass, value, LOST: tl.constexpr):
    """Log-odds of the window's share, [R], or the negative log norm of what the output loses, in nats."""
    margin = (window_mass - bulk_mass) * LN2
    if LOST:
        distance = tl.sqrt(tl.sum((value - window) * (value - window), 1))
        # The share's logarithm, from whichever side keeps its digits.
        smaller = tl.math.exp2(-tl.abs(window_mass - bulk_mass))
        margin = LN2 * (tl.maximum(window_mass - bulk_mass, 0.0) + tl.math.log2(1 + smaller) - tl.math.log2(distance))
    return margin


@triton.jit(do_not_specialize=["sink", "recent"])
def decide(
    query, keys, values, lengths, pages, outlier_keys, outlier_values, outlier_counts,
    size, key_means, value_means, covariance, spread, threshold, slope, offset,
    plain_output, plain_mass, output, long, group_long,
    stride_b, stride_h, stride_t, bits, sink, recent, kv_heads, table,
    G: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, PAGE: tl.constexpr,
    M: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, FULL: tl.constexpr,
    LOST: tl.constexpr, BY_GROUP: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write output and log mass of the plain window, output of the window with outliers, labels, any label of a group.

    A long head continues from the plain window: outliers are bulk keys, which it reads in the cache. `table`: the most
    pages of a sequence. DEPENDENT: the next launch waits for this one by itself and may come to the GPU before.
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
    slope, offset, threshold = tl.load(slope + head), tl.load(offset + head), tl.load(threshold + row)
    # Loaded while the window is attended to; a wide head would find no registers for it.
    if WIDTH <= 128:
        summary = _load_summary(group, size, key_means, value_means, covariance, spread, d, wide, D, C, CENTRES, FULL)
    top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
    attention = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, length - bulk, N):
        # The window's keys one after the other: sinks, then those behind the bulk.
        i = first + n
        exists = i < length - bulk
        j = tl.where(i < sink, i, i + bulk)
        at = addresses(pages + b * table, b, k, j, exists, stride_b, stride_h, stride_t, PAGE)[:, None] + d[None, :]
        read = exists[:, None] & wide
        top, total, attention = attended(q, keys + at, values + at, read, exists[None, :], bits, top, total, attention)
    tl.store(plain_output + row[:, None] * D + d[None, :], attention / total[:, None], mask=valid[:, None] & wide)
    tl.store(plain_mass + row, top + tl.math.log2(total), mask=valid)
    outliers = 0
    if M > 0:
        outliers = tl.load(outlier_counts + group)
        top, total, attention = _over_outliers(
            q, outlier_keys, outlier_values, group * M, outliers, d, wide, bits, top, total, attention, D, N
        )
    window, window_mass = attention / total[:, None], top + tl.math.log2(total)
    if WIDTH > 128:
        summary = _load_summary(group, size, key_means, value_means, covariance, spread, d, wide, D, C, CENTRES, FULL)
    bulk_mass, value = _estimated(q, summary, bits, FULL)
    bulk_mass += tl.math.log2(tl.maximum(bulk - outliers, 0).to(tl.float32))
    margin = calibrated(_margin(window_mass, window, bulk_mass, value, LOST), slope, offset)
    if BY_GROUP:
        margin = group_margin(margin, valid, LOST)
    label = is_long(margin, threshold, bulk) & valid
    if BY_GROUP:  # thresholds may differ: the largest counts
        label = valid & (tl.max(label.to(tl.int32), 0) > 0)
    tl.store(output + row[:, None] * D + d[None, :], window.to(output.dtype.element_ty), mask=valid[:, None] & wide)
    tl.store(long + row, label.to(tl.int8), mask=valid)
    tl.store(group_long + group, tl.max(label.to(tl.int32), 0))
