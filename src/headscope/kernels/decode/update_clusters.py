"""Streaming summaries: while decoding, the key that leaves the window joins the nearest cluster of the bulk.

The references are `headscope.kernels.reference.join` and `headscope.heads.estimators.clusters.Clusters.update`. One
launch before a step's decision; it reads one key, one value, the clusters' means and the metric of each KV head,
whatever T is.

Shapes: B sequences, K KV heads, C clusters, D head_dim. A program is one KV head of one sequence.
"""

import torch
import triton
import triton.language as tl

from headscope.kernels.common.device import padded
from headscope.kernels.common.layer import BulkSummary, Cache, ClusterMeans
from headscope.kernels.decode.decide import addresses

COLUMNS = 64
PRECISION = "ieee" if torch.version.hip else "tf32x3"
"""Of the distances' products, single precision either way; the first takes more registers than there are."""


@triton.jit(do_not_specialize=["sink", "recent"])
def _join(
    keys, values, lengths, pages, size, key_means, value_means, exact_keys, exact_values, metric,
    stride_b, stride_h, stride_t, sink, recent, kv_heads, table,
    D: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, PAGE: tl.constexpr,
    COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Move the mean of one cluster by the key that has just become bulk."""
    group = tl.program_id(0).to(tl.int64)
    b, k = group // kv_heads, group % kv_heads
    leaving = tl.load(lengths + b) - recent - 1
    if leaving >= sink:
        d, c = tl.arange(0, WIDTH), tl.arange(0, CENTRES)
        wide, there = d < D, c < C
        at = addresses(pages + b * table, b, k, leaving + d * 0, wide, stride_b, stride_h, stride_t, PAGE) + d
        key = tl.load(keys + at, mask=wide, other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=wide, other=0.0).to(tl.float32)
        means = (group * C + c)[:, None] * D + d[None, :]
        read = there[:, None] & wide[None, :]
        apart = tl.where(read, key[None, :] - tl.load(exact_keys + means, mask=read, other=0.0), 0.0)
        # The metric some columns at a time: in single precision it is large.
        distance = tl.zeros([CENTRES], tl.float32)
        for first in tl.range(0, WIDTH, COLUMNS, num_stages=1):
            column = first + tl.arange(0, COLUMNS)
            inside = wide[:, None] & (column < D)[None, :]
            part = tl.load(metric + (group * D + d[:, None]) * D + column[None, :], mask=inside, other=0.0)
            seen = tl.dot(apart, part, input_precision=PRECISION)
            distance += tl.sum(seen * seen, 1)
        kept = tl.load(size + group * C + c, mask=there, other=0.0)
        distance = tl.where(kept > 0, distance, float("inf"))
        nearest = tl.argmin(distance, 0)
        now = tl.sum(tl.where(c == nearest, kept, 0.0), 0) + 1
        one = (group * C + nearest) * D + d
        old_key, old_value = tl.load(exact_keys + one, mask=wide), tl.load(exact_values + one, mask=wide)
        key, value = old_key + (key - old_key) / now, old_value + (value - old_value) / now
        tl.debug_barrier()  # all threads have read what is now overwritten
        tl.store(size + group * C + nearest, now)
        tl.store(exact_keys + one, key, mask=wide)
        tl.store(exact_values + one, value, mask=wide)
        tl.store(key_means + one, key.to(key_means.dtype.element_ty), mask=wide)
        tl.store(value_means + one, value.to(value_means.dtype.element_ty), mask=wide)


def update_clusters(cache: Cache, rest: BulkSummary, means: ClusterMeans, sink: int, recent: int) -> None:
    """Update `rest` and `means` in place by the last key behind the window of each sequence; once a step.

    Args:
        cache: with the step's own keys.
        rest: summaries of clusters.
        means: theirs.
        sink: first keys of the window.
        recent: its last keys.
    """
    batch, kv_heads, clusters, dim = rest.keys.shape
    page, table = (0, 0) if cache.pages is None else (cache.keys.shape[2], cache.pages.shape[1])
    width, centres = padded(dim), padded(clusters)
    _join[(batch * kv_heads,)](
        cache.keys, cache.values, cache.lengths, cache.lengths if cache.pages is None else cache.pages,
        rest.size, rest.keys, rest.values, means.keys, means.values, means.metric,
        *cache.keys.stride()[:3], sink, recent, kv_heads, table,
        dim, width, clusters, centres, page, min(COLUMNS, width), PRECISION, num_warps=4,
    )  # fmt: skip
