"""Streaming summaries: at each decoding step, the key that leaves the window joins the nearest cluster of the bulk.

One launch before a step's decision. It reads one key, one value, the clusters' means and the metric of each KV head,
whatever T is. The torch versions are `headscope.kernels.decode.reference.update_clusters` and
`headscope.heads.estimators.clusters.Clusters.update`.

Shapes: B sequences, K KV heads, C clusters, D head_dim; WIDTH >= D and CENTRES >= C, powers of two. A program handles
one KV head of one sequence.
"""

import torch
import triton
import triton.language as tl

from headscope.kernels.common.device import padded
from headscope.kernels.common.layer import BulkSummary, Cache, ClusterMeans
from headscope.kernels.decode.decide import addresses

COLUMNS = 64
"""Columns of the metric in one product: all of them, in single precision, would be large."""
PRECISION = "ieee" if torch.version.hip else "tf32x3"
"""Of the distances' products, single precision either way; the first takes more registers than there are."""


@triton.jit(do_not_specialize=["sink", "recent"])
def _update_clusters(
    keys, values, lengths, pages, size, key_means, value_means, exact_keys, exact_values, metric,
    stride_b, stride_h, stride_t, sink, recent, kv_heads, table,
    D: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, CENTRES: tl.constexpr, PAGE: tl.constexpr,
    COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Move the mean of the nearest cluster towards the key that leaves the window, if there is one."""
    group = tl.program_id(0).to(tl.int64)
    b, k = group // kv_heads, group % kv_heads
    leaving = tl.load(lengths + b) - recent - 1
    if leaving >= sink:
        d, c = tl.arange(0, WIDTH), tl.arange(0, CENTRES)
        wide, exists = d < D, c < C
        at = addresses(pages + b * table, b, k, leaving + d * 0, wide, stride_b, stride_h, stride_t, PAGE) + d
        key = tl.load(keys + at, mask=wide, other=0.0).to(tl.float32)
        value = tl.load(values + at, mask=wide, other=0.0).to(tl.float32)
        at = (group * C + c)[:, None] * D + d[None, :]
        read = exists[:, None] & wide[None, :]
        difference = tl.where(read, key[None, :] - tl.load(exact_keys + at, mask=read, other=0.0), 0.0)
        distance = tl.zeros([CENTRES], tl.float32)
        for first in tl.range(0, WIDTH, COLUMNS, num_stages=1):
            column = first + tl.arange(0, COLUMNS)
            inside = wide[:, None] & (column < D)[None, :]
            factor = tl.load(metric + (group * D + d[:, None]) * D + column[None, :], mask=inside, other=0.0)
            turned = tl.dot(difference, factor, input_precision=PRECISION)
            distance += tl.sum(turned * turned, 1)
        sizes = tl.load(size + group * C + c, mask=exists, other=0.0)
        distance = tl.where(sizes > 0, distance, float("inf"))
        nearest = tl.argmin(distance, 0)
        new_size = tl.sum(tl.where(c == nearest, sizes, 0.0), 0) + 1
        at = (group * C + nearest) * D + d
        old_key, old_value = tl.load(exact_keys + at, mask=wide), tl.load(exact_values + at, mask=wide)
        key, value = old_key + (key - old_key) / new_size, old_value + (value - old_value) / new_size
        tl.debug_barrier()  # all threads have read what is now overwritten
        tl.store(size + group * C + nearest, new_size)
        tl.store(exact_keys + at, key, mask=wide)
        tl.store(exact_values + at, value, mask=wide)
        tl.store(key_means + at, key.to(key_means.dtype.element_ty), mask=wide)
        tl.store(value_means + at, value.to(value_means.dtype.element_ty), mask=wide)


def update_clusters(cache: Cache, summary: BulkSummary, means: ClusterMeans, sink: int, recent: int) -> None:
    """Update summary and means in place by the last key behind the window of each sequence; once a step.

    Args:
        cache: with the step's own keys.
        summary: clusters of the bulk.
        means: their means in single precision.
        sink: first keys of the window.
        recent: its last keys.
    """
    batch, kv_heads, clusters, dim = summary.keys.shape
    page, table, pages = 0, 0, cache.lengths
    if cache.pages is not None:
        page, table, pages = cache.keys.shape[2], cache.pages.shape[1], cache.pages
    width = padded(dim)
    _update_clusters[(batch * kv_heads,)](
        cache.keys, cache.values, cache.lengths, pages,
        summary.size, summary.keys, summary.values, means.keys, means.values, means.metric,
        *cache.keys.stride()[:3], sink, recent, kv_heads, table,
        dim, width, clusters, padded(clusters), page, min(COLUMNS, width), PRECISION, num_warps=4,
    )  # fmt: skip
