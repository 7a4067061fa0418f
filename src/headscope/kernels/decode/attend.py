"""Adaptive decoding on the GPU: decide and attend to windows, read the bulk of the groups with a long head, merge.

The decision never leaves the GPU: the three launches have fixed grids, so that a CUDA graph can hold them. On Hopper
GPUs and later each launch is on its way while the one before still runs (programmatic dependent launch). The torch
reference is `headscope.kernels.reference`.

Shapes: B sequences, H query heads, K KV heads, G = H // K, D head_dim.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.errors import ShapeError
from headscope.kernels.common.device import LOG2E, ample, padded, processors
from headscope.kernels.common.layer import BulkSummary, Cache, Decided, DecisionRule, OutlierKeys
from headscope.kernels.decode.decide import decide
from headscope.kernels.decode.read_bulk import merge, read_bulk

TILE = 64
FEW_GROUPS, MANY_GROUPS = 32, 128
"""So many groups, or fewer, leave room on the GPU for the merge to wait beside the queue; more than so many fill it."""


def stages(roomy: bool) -> int:
    """Of the pipelines of `decide` and `read_bulk`; roomy: the shared memory."""
    return 3 if roomy else 2


def merge_tiling(groups: int) -> tuple[int, int]:
    """Slices of a row and parts read at once: few groups have many parts each and leave the GPU idle."""
    if groups <= FEW_GROUPS:
        return 4, 256
    return (2, 128) if groups <= MANY_GROUPS else (1, 32)


@dataclass(frozen=True)
class Workspace:
    """What the stages hand on; made once for a shape, so that a decoding step allocates nothing.

    Attributes:
        plain: attention over the plain window, [B, H, D], float32.
        plain_mass: its log mass in bits, [B, H].
        long: labels, bool [B, H].
        reading: whether any head of a KV group is long, int32 [B, K].
        parts: sums over pieces of bulks, [programs + B K, G, D], float32.
        part_masses: their maxima and totals, [programs + B K, G, 2].
        output: [B, H, D], of the query's dtype.
        programs: of the queue.
        dependent: whether a launch may start while the one before still runs.
    """

    plain: Tensor
    plain_mass: Tensor
    long: Tensor
    reading: Tensor
    parts: Tensor
    part_masses: Tensor
    output: Tensor
    programs: int
    dependent: bool

    @classmethod
    def of(cls, query: Tensor, kv_heads: int, programs: int | None = None) -> "Workspace":
        """Make one for queries [B, H, D]; `programs` of the queue: by default as many as run at once."""
        batch, heads, dim = query.shape
        if programs is None:
            per_processor = 2 if batch * kv_heads <= FEW_GROUPS else 3
            programs = per_processor * processors(query)
        single: dict[str, Any] = {"dtype": torch.float32, "device": query.device}
        parts = programs + batch * kv_heads, heads // kv_heads
        return cls(
            plain=torch.empty(batch, heads, dim, **single),
            plain_mass=torch.empty(batch, heads, **single),
            long=torch.empty(batch, heads, dtype=torch.bool, device=query.device),
            reading=torch.empty(batch, kv_heads, dtype=torch.int32, device=query.device),
            parts=torch.empty(*parts, dim, **single),
            part_masses=torch.empty(*parts, 2, **single),
            output=torch.empty(query.shape, dtype=query.dtype, device=query.device),
            programs=programs,
            dependent=query.is_cuda and torch.cuda.get_device_capability(query.device) >= (9, 0),
        )


def _check(query: Tensor, cache: Cache, rest: BulkSummary, rule: DecisionRule, outliers: OutlierKeys | None) -> None:
    if cache.keys.stride() != cache.values.stride() or cache.keys.stride(-1) != 1:
        raise ShapeError("keys and values of a cache must have the same strides and no gaps in D; store them alike")
    held = () if outliers is None else (outliers.keys, outliers.values, outliers.count)
    parts = (query, rest.size, rest.keys, rest.values, rest.covariance, rest.spread, cache.lengths, *held)
    if not all(x.is_contiguous() for x in (*parts, rule.threshold, rule.slope, rule.offset)):
        raise ShapeError("query, summaries, rule, outliers and lengths must be contiguous; call contiguous() once")


def attend_step(
    query: Tensor,
    cache: Cache,
    rest: BulkSummary,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    outliers: OutlierKeys | None = None,
    workspace: Workspace | None = None,
) -> Decided:
    """Attend with one query of every sequence, [B, H, D]: over all keys where a head is long, else over its window.

    Args:
        query: rotated, contiguous.
        cache: of the layer.
        rest: summary of the bulk without the outliers; its vectors contiguous and of the query's dtype.
        rule: labels the heads.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores, above 0.
        outliers: that a local head's window holds too.
        workspace: of an earlier call with these shapes, whose output is overwritten.

    Raises:
        ShapeError: a tensor has not the strides that the kernels read; a step makes no copy.
    """
    _check(query, cache, rest, rule, outliers)
    batch, heads, dim = query.shape
    kv_heads = cache.keys.shape[1]
    groups, group = batch * kv_heads, heads // kv_heads
    work = workspace or Workspace.of(query, kv_heads)
    page, table = (0, 0) if cache.pages is None else (cache.keys.shape[2], cache.pages.shape[1])
    pages = cache.lengths if cache.pages is None else cache.pages
    clusters, width = rest.keys.shape[2], padded(dim)
    held = (query, query, cache.lengths) if outliers is None else (outliers.keys, outliers.values, outliers.count)
    tiles = {"num_warps": 4 if width <= 128 else 8, "num_stages": stages(ample(query))}
    dependent = work.dependent
    launch = {"launch_pdl": True} if dependent else {}
    strides, bits, long = cache.keys.stride()[:3], scale * LOG2E, work.long.view(torch.int8)
    rows, many = padded(group), padded(groups)
    slices, at_once = merge_tiling(groups)
    decide[(groups,)](
        query, cache.keys, cache.values, cache.lengths, pages, *held,
        rest.size, rest.keys, rest.values, rest.covariance, rest.spread, rule.threshold, rule.slope, rule.offset,
        work.plain, work.plain_mass, work.output, long, work.reading,
        *strides, bits, sink, recent, kv_heads, table,
        group, rows, dim, width, TILE, page,
        0 if outliers is None else outliers.keys.shape[2], clusters, padded(clusters),
        rest.covariance.ndim == 4, rule.lost_output, dependent, **tiles,
    )  # fmt: skip
    read_bulk[(work.programs,)](
        query, cache.keys, cache.values, cache.lengths, pages, work.reading, work.parts, work.part_masses,
        *strides, bits, groups, sink, recent, kv_heads, table,
        group, rows, dim, width, TILE, page, many, dependent, **tiles, **launch,
    )  # fmt: skip
    merge[(batch * heads * slices,)](
        cache.lengths, work.reading, long, work.plain, work.plain_mass, work.parts, work.part_masses, work.output,
        groups, work.programs, sink, recent, kv_heads,
        group, dim, width, TILE, many, at_once, slices, dependent, num_warps=4, **launch,
    )  # fmt: skip
    return Decided(work.output, work.long)
