"""State of a batch at the boundary as the decoding kernels read it: outliers and summaries of every row, by layer.

Shapes: B rows, L layers taken together, H query heads, K KV heads, T keys that a cache can hold, P keys of a row,
M outliers, D head_dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from headscope.heads.boundary_state import BoundaryState, make_boundary_state
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import Criterion
from headscope.heads.reading import decision_bytes
from headscope.heads.to_device import to_device
from headscope.inference.criterion import AdaptiveCriterion
from headscope.inference.kernel_inputs import bulk_summary, cluster_means, decision_rule
from headscope.kernels.common.layer import BulkSummary, ClusterMeans, DecisionRule, OutlierKeys
from headscope.models.geometry import geometry
from headscope.models.observe import scales_of

MULTIPLE = 64
"""Of the outliers that memory is made for, and of where a layer's numbers start."""
MAX_NUMBERS = 1 << 20
"""Numbers of the keys that are summarised at once: 4 MiB in float32, a few times that with values and clusters."""
ON_GPU = 128
"""Times as many on a GPU."""
Pair = tuple[Tensor, Tensor]
"""Keys and values of a layer as the model's cache holds them, [B, K, T, D] each."""


@dataclass
class LayerState:
    """State that decides in one layer.

    Attributes:
        summary: of the bulk without outliers.
        means: of clusters, which keys join; None: the summary stays.
        outliers: None where no row has any.
        rule: labels the heads.
        scale: factor of the scores.
        decision_bytes: that one query's decision reads beside the plain window, over all KV heads, float64 [B].
        workspace: of the kernels, made at the first query.
    """

    summary: BulkSummary
    means: ClusterMeans | None
    outliers: OutlierKeys | None
    rule: DecisionRule
    scale: float
    decision_bytes: Tensor
    workspace: Any = None


@dataclass(frozen=True)
class Batch:
    """Rows of a batch that stand at their boundary.

    Attributes:
        model: in evaluation mode.
        criterion: calibrated for it.
        built: the same as a criterion of one row.
        caches: of each full-attention layer.
        spans: first and last (exclusive) key of each row; before lies padding, behind what was never written.
        positions: of the next query of each row, to which the rotations of its keys refer.
    """

    model: PreTrainedModel
    criterion: AdaptiveCriterion
    built: Criterion
    caches: Mapping[int, Pair]
    spans: Sequence[tuple[int, int]]
    positions: Sequence[int]


@torch.no_grad()
def boundary_states(batch: Batch) -> dict[int, LayerState]:
    """Choose the outliers of every row and summarise its other bulk keys, by layer."""
    chunks = _layer_chunks(batch)
    rows = [_row_states(_RowBulks(batch, chunks, row)) for row in range(len(batch.spans))]
    result = {}
    for layers, states in zip(chunks, zip(*rows, strict=True), strict=True):
        for layer, state in zip(layers, _chunk_states(batch, layers, states), strict=True):
            result[layer] = state
    return result


def _chunk_states(batch: Batch, layers: Sequence[int], rows: Sequence[BoundaryState]) -> Iterator[LayerState]:
    """Cut the state of several layers that were taken together into each layer's."""
    keys, estimator = batch.caches[layers[0]][0], batch.built.estimator
    assert estimator is not None
    summaries = [row.summaries.of[estimator.name] for row in rows]
    summary = _split(bulk_summary(batch.built, summaries, keys.dtype), len(layers))
    means = _split(cluster_means(batch.built, summaries), len(layers))
    outliers = _outliers(rows, keys.dtype, len(layers))
    heads, head_dim = geometry(batch.model.config).heads, keys.shape[3]
    numbers = batch.built.summary_numbers(head_dim)
    counts = torch.stack([row.present.sum(1) for row in rows]).view(len(rows), len(layers), -1)
    costs = decision_bytes(counts, batch.criterion.recipe.outliers.bits, numbers, head_dim).sum(2)
    for index, layer in enumerate(layers):
        rule = decision_rule(batch.built, layer, len(batch.spans), heads, keys.device)
        scale = scales_of(batch.model)[layer]
        yield LayerState(summary[index], means[index], outliers[index], rule, scale, costs[:, index])


def _layer_chunks(batch: Batch) -> list[list[int]]:
    """Group layers whose KV heads can be those of one layer.

    A GPU would wait for every layer on its own, a CPU's caches hold one or a few; all would not fit as float32.
    """
    tokens = max(last - first for first, last in batch.spans)

    def alike(layer: int) -> tuple[torch.device, torch.Size, float]:
        keys, _ = batch.caches[layer]
        return keys.device, keys.shape, scales_of(batch.model)[layer]

    chunks = []
    for (where, (_, kv_heads, _, dim), _), group in groupby(batch.caches, alike):
        layers, most = list(group), MAX_NUMBERS * (ON_GPU if where.type == "cuda" else 1)
        step = max(1, most // max(1, kv_heads * tokens * dim))
        chunks += [layers[first : first + step] for first in range(0, len(layers), step)]
    return chunks


@dataclass(frozen=True)
class _RowBulks:
    """Bulks of one row, one chunk of layers after the other: those of a chunk as one of L K KV heads.

    Made anew each time, since the copies of all layers at once would double the cache.

    Attributes:
        batch: the batch.
        chunks: layers that are taken together.
        row: index into the batch.
    """

    batch: Batch
    chunks: Sequence[Sequence[int]]
    row: int

    def __iter__(self) -> Iterator[Bulk]:
        model, criterion = self.batch.model, self.batch.criterion
        span, position = self.batch.spans[self.row], self.batch.positions[self.row]
        for layers in self.chunks:
            pairs = [self.batch.caches[layer] for layer in layers]
            keys, values = (torch.cat([x[self.row, :, slice(*span)] for x in of]) for of in zip(*pairs, strict=True))
            probes = None
            if criterion.probes is not None:
                joined = criterion.probes.joined(layers)
                probes = to_device(joined.at(model, layers[0], position), keys.device)
            cache = LayerCache(layers[0], keys, values, scales_of(model)[layers[0]], probes)
            yield Bulk.between(cache, *criterion.window.summarised(keys.shape[1]))


def _row_states(bulks: _RowBulks) -> list[BoundaryState]:
    """Take one row's outliers, which its layers may share, and summarise the rest."""
    sizes, outliers = geometry(bulks.batch.model.config), bulks.batch.criterion.recipe.outliers
    group, estimators = sizes.heads // sizes.kv_heads, [bulks.batch.built.estimator]
    return [
        make_boundary_state(bulk, marks, group, outliers.bits, estimators) for bulk, marks in outliers.marked(bulks)
    ]


def _split(tensors: Any, layers: int) -> list[Any]:
    """Cut a dataclass of tensors [B, L K, ...] into each layer's."""
    if tensors is None:
        return [None] * layers
    parts = zip(*(_aligned(getattr(tensors, field.name), layers) for field in fields(tensors)), strict=True)
    return [type(tensors)(*part) for part in parts]


def _aligned(x: Tensor, layers: int) -> list[Tensor]:
    """Cut out each layer's part, [B, K, ...], contiguous and where kernels may read whole vectors, by one copy."""
    parts = x.reshape(len(x), layers, x.shape[1] // layers, *x.shape[2:]).transpose(0, 1)
    flat = parts.flatten(1)
    return [part[: flat.shape[1]].view(parts.shape[1:]) for part in pad(flat, (0, -flat.shape[1] % MULTIPLE))]


def _outliers(rows: Sequence[BoundaryState], dtype: torch.dtype, layers: int) -> list[OutlierKeys | None]:
    """Put the outliers of all rows side by side, by layer, [B, K, M, D]; zeros behind those of a row with fewer.

    M is a multiple of MULTIPLE: the kernels are compiled for it, and a graph of a step made for it.
    """
    keys, values = (
        pad_sequence([getattr(row, name).transpose(0, 1) for row in rows], batch_first=True).transpose(1, 2).to(dtype)
        for name in ("keys", "values")
    )
    count = torch.stack([row.present.sum(1) for row in rows]).int()
    most = count.view(len(rows), layers, -1).amax((0, 2)).tolist()
    keys, values = (pad(x, (0, 0, 0, -x.shape[2] % MULTIPLE)) for x in (keys, values))
    result: list[OutlierKeys | None] = []
    for part, largest in zip(_split(OutlierKeys(keys, values, count), layers), most, strict=True):
        columns = slice(-(-largest // MULTIPLE) * MULTIPLE)
        # A view, be it of all M, would keep those of all layers alive.
        keys, values = (x[:, :, columns].clone(memory_format=torch.contiguous_format) for x in (part.keys, part.values))
        result.append(OutlierKeys(keys, values, part.count) if largest else None)
    return result
