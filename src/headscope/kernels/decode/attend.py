"""Adaptive decoding on the GPU: attend to windows and decide, read the bulk of groups with a long head, merge.

The decision never leaves the GPU: the three launches have fixed grids, so that a CUDA graph can hold them. On Hopper
GPUs and later, a launch starts while the one before still runs (programmatic dependent launch). The torch reference is
`headscope.kernels.decode.reference`.

Shapes: B sequences, H query heads, K KV heads, G = H // K, D head_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.errors import ShapeError
from headscope.kernels.common.device import LOG2E, ample, padded, processors
from headscope.kernels.common.layer import BulkSummary, Cache, Decided, DecisionRule, OutlierKeys
from headscope.kernels.decode.decide import decide
from headscope.kernels.decode.read_bulk import merge, read_bulk

TILE = 64
FEW_GROUPS, MANY_GROUPS = 32, 128
"""Up to the first number, `merge` finds room on the GPU to wait beside `read_bulk`; more than the second fill it."""


def stages(roomy: bool) -> int:
    """Return the pipeline stages of `decide` and `read_bulk`; roomy: the GPU has much shared memory."""
    return 3 if roomy else 2


def merge_tiling(groups: int) -> tuple[int, int]:
    """Return slices of a row, and partial sums read at once: few groups have many sums each and leave the GPU idle."""
    if groups <= FEW_GROUPS:
        return 4, 256
    return (2, 128) if groups <= MANY_GROUPS else (1, 32)


@dataclass(frozen=True)
class Workspace:
    """Memory between the launches, made once for a shape, so that a decoding step allocates nothing.

    Attributes:
        plain_output: attention over the plain window (sinks and recent keys, no outliers), [B, H, D], float32.
        plain_mass: its log mass in bits, [B, H].
        long: labels, bool [B, H].
        group_long: whether any head of a KV group is long, int32 [B, K].
        partial_outputs: sums over shares of bulks, [programs + B K, G, D], float32.
        partial_masses: their maxima and totals, [programs + B K, G, 2].
        output: [B, H, D], of the query's dtype.
        programs: of `read_bulk`.
        dependent: whether a launch may start while the one before still runs.
    """

    plain_output: Tensor
    plain_mass: Tensor
    long: Tensor
    group_long: Tensor
    partial_outputs: Tensor
    partial_masses: Tensor
    output: Tensor
    programs: int
    dependent: bool

    @classmethod
    def of(cls, query: Tensor, kv_heads: int, programs: int | None = None) -> "Workspace":
        """Make one for queries [B, H, D]; programs: by default as many as run at once."""
        batch, heads, dim = query.shape
        if programs is None:
            programs = (2 if batch * kv_heads <= FEW_GROUPS else 3) * processors(query)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=query.device)

        partial = programs + batch * kv_heads, heads // kv_heads
        return cls(
            plain_output=empty(batch, heads, dim),
            plain_mass=empty(batch, heads),
            long=empty(batch, heads, dtype=torch.bool),
            group_long=empty(batch, kv_heads, dtype=torch.int32),
            partial_outputs=empty(*partial, dim),
            partial_masses=empty(*partial, 2),
            output=empty(batch, heads, dim, dtype=query.dtype),
            programs=programs,
            dependent=query.is_cuda and torch.cuda.get_device_capability(query.device) >= (9, 0),
        )


def _check(query: Tensor, cache: Cache, summary: BulkSummary, rule: DecisionRule, outliers: OutlierKeys | None) -> None:
    if cache.keys.stride() != cache.values.stride() or cache.keys.stride(-1) != 1:
        raise ShapeError("keys and values of a cache must have the same strides and no gaps in D; store them alike")
    tensors = [query, cache.lengths, rule.threshold, rule.slope, rule.offset, *vars(summary).values()]
    tensors += [] if outliers is None else vars(outliers).values()
    if not all(x.is_contiguous() for x in tensors):
        raise ShapeError("query, summaries, rule, outliers and lengths must be contiguous; call contiguous() once")


def attend_step(
    query: Tensor,
    cache: Cache,
    summary: BulkSummary,
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
        summary: of the bulk without the outliers; its vectors contiguous and of the query's dtype.
        rule: labels the heads.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores, above 0.
        outliers: keys that a local head sees beside its window.
        workspace: of an earlier call with these shapes, whose output is overwritten.

    Raises:
        ShapeError: a tensor has not the strides that the kernels read; a step makes no copy.
    """
    _check(query, cache, summary, rule, outliers)
    (batch, heads, dim), kv_heads, clusters = query.shape, cache.keys.shape[1], summary.keys.shape[2]
    groups, group, width = batch * kv_heads, heads // kv_heads, padded(dim)
    work = workspace or Workspace.of(query, kv_heads)
    # Without pages or outliers no kernel reads their pointers.
    page, table, pages = 0, 0, cache.lengths
    if cache.pages is not None:
        page, table, pages = cache.keys.shape[2], cache.pages.shape[1], cache.pages
    copies = (query, query, cache.lengths) if outliers is None else (outliers.keys, outliers.values, outliers.count)
    tiles = {"num_warps": 4 if width <= 128 else 8, "num_stages": stages(ample(query))}
    launch = {"launch_pdl": True} if work.dependent else {}
    strides, bits, long = cache.keys.stride()[:3], scale * LOG2E, work.long.view(torch.int8)
    shape, many = (group, padded(group), dim, width, TILE, page), padded(groups)
    decide[(groups,)](
        query, cache.keys, cache.values, cache.lengths, pages, *copies,
        summary.size, summary.keys, summary.values, summary.covariance, summary.spread,
        rule.threshold, rule.slope, rule.offset, work.plain_output, work.plain_mass, work.output, long, work.group_long,
        *strides, bits, sink, recent, kv_heads, table,
        *shape, 0 if outliers is None else outliers.keys.shape[2], clusters, padded(clusters),
        summary.covariance.ndim == 4, rule.lost_output, rule.by_group, work.dependent, **tiles,
    )  # fmt: skip
    read_bulk[(work.programs,)](
        query, cache.keys, cache.values, cache.lengths, pages, work.group_long, work.partial_outputs,
        work.partial_masses, *strides, bits, groups, sink, recent, kv_heads, table,
        *shape, many, work.dependent, **tiles, **launch,
    )  # fmt: skip
    slices, at_once = merge_tiling(groups)
    merge[(batch * heads * slices,)](
        cache.lengths, work.group_long, long, work.plain_output, work.plain_mass, work.partial_outputs,
        work.partial_masses, work.output, groups, work.programs, sink, recent, kv_heads,
        group, dim, width, TILE, many, at_once, slices, work.dependent, num_warps=4, **launch,
    )  # fmt: skip
    return Decided(work.output, work.long)
