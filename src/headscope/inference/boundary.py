"""What a boundary leaves of a batch for decoding: outliers and summaries of every row, as the kernels read them.

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
from headscope.heads.estimators import Estimator
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.mass import precise
from headscope.heads.to_device import to_device
from headscope.inference.criterion import AdaptiveCriterion
from headscope.inference.kernel_inputs import means_of, rest_of
from headscope.kernels.common import device
from headscope.kernels.common.layer import BulkSummary, ClusterMeans, DecisionRule, OutlierKeys
from headscope.models.geometry import geometry

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
    """What decides in one layer.

    Attributes:
        rest: summaries of the bulk without outliers.
        means: of clusters, which keys join; None: the summary stays.
        outliers: None where no row has any.
        rule: labels the heads.
        scale: factor of the scores.
        by_kernels: whether the kernels serve; numbers are then in the cache's precision, else in single or better.
        workspace: of the kernels, made at the first query.
    """

    rest: BulkSummary
    means: ClusterMeans | None
    outliers: OutlierKeys | None
    rule: DecisionRule
    scale: float
    by_kernels: bool
    workspace: Any = None


@torch.no_grad()
def boundary_states(
    model: PreTrainedModel,
    criterion: AdaptiveCriterion,
    threshold: float,
    caches: Mapping[int, Pair],
    spans: Sequence[tuple[int, int]],
    positions: Sequence[int],
) -> dict[int, LayerState]:
    """Choose the outliers of every row and summarise its other bulk keys, by layer.

    Args:
        model: in evaluation mode.
        criterion: calibrated for it.
        threshold: of the margin.
        caches: of each full-attention layer.
        spans: first and last (exclusive) key of each row; before lies padding, behind what was never written.
        positions: of the next query of each row, to which the rotations of its keys refer.
    """
    estimator, rows = criterion.recipe.built_estimator(), []
    together = _together(model, caches, max(last - first for first, last in spans))
    for row, (span, position) in enumerate(zip(spans, positions, strict=True)):
        rows.append(_frozen(_Row(model, criterion, caches, together, row, span, position), estimator))
    found = {}
    for layers, frozen in zip(together, zip(*rows, strict=True), strict=True):
        keys, values = caches[layers[0]]
        by_kernels = device.serve(keys.detach(), values.detach())
        dtype = keys.dtype if by_kernels else precise(keys[:0]).dtype
        # Recipes share outliers with clusters alone, which take KV heads of different numbers of keys at once.
        summaries = [whole.of[estimator.name] for [whole] in (row.summaries for row in frozen)]
        rest = _split(rest_of(estimator, summaries, dtype), len(layers))
        means = _split(means_of(summaries) if isinstance(estimator, Clusters) else None, len(layers))
        outliers = _outliers(frozen, dtype, len(layers))
        for layer, of_layer in zip(layers, zip(rest, means, outliers, strict=True), strict=True):
            rule = criterion.rule(layer, threshold, len(spans), geometry(model.config).heads, keys.device)
            found[layer] = LayerState(*of_layer, rule, scale_of(model, layer), by_kernels)
    return found


def _together(model: PreTrainedModel, caches: Mapping[int, Pair], tokens: int) -> list[list[int]]:
    """Layers whose KV heads can be those of one layer, for rows of at most so many tokens.

    A GPU would wait for every layer on its own, a CPU's caches hold one or a few; all would not fit as float32.
    """

    def alike(layer: int) -> tuple[torch.device, torch.Size, float]:
        return caches[layer][0].device, caches[layer][0].shape, scale_of(model, layer)

    found = []
    for (where, (_, kv_heads, _, dim), _), same in groupby(caches, alike):
        layers, most = list(same), MAX_NUMBERS * (ON_GPU if where.type == "cuda" else 1)
        step = max(1, most // max(1, kv_heads * tokens * dim))
        found += [layers[first : first + step] for first in range(0, len(layers), step)]
    return found


@dataclass(frozen=True)
class _Row:
    """The bulks of one row: those of all layers of a chunk as one of L K KV heads, a chunk after the other.

    Made anew each time, since the copies of all layers at once would double the cache.

    Attributes:
        together: the chunks.
        row: index into the caches.
        span: first and last (exclusive) key.
        position: of the next query.
    """

    model: PreTrainedModel
    criterion: AdaptiveCriterion
    caches: Mapping[int, Pair]
    together: Sequence[Sequence[int]]
    row: int
    span: tuple[int, int]
    position: int

    def __iter__(self) -> Iterator[Bulk]:
        for layers in self.together:
            pairs = [self.caches[layer] for layer in layers]
            keys, values = (
                torch.cat([x[self.row, :, slice(*self.span)] for x in of]) for of in zip(*pairs, strict=True)
            )
            probes = None
            if self.criterion.probes is not None:
                fitted = self.criterion.probes.joined(layers)
                probes = to_device(fitted.at(self.model, layers[0], self.position), keys.device)
            cache = LayerCache(layers[0], keys, values, scale_of(self.model, layers[0]), probes)
            yield Bulk.between(cache, *self.criterion.window.summarised(keys.shape[1]))


def _frozen(row: _Row, estimator: Estimator) -> list[BoundaryState]:
    """One row's outliers, which its layers may share, and summaries."""
    sizes, outliers = geometry(row.model.config), row.criterion.recipe.outliers
    group = sizes.heads // sizes.kv_heads
    return [make_boundary_state(bulk, marks, group, outliers.bits, [estimator]) for bulk, marks in outliers.marked(row)]


def scale_of(model: PreTrainedModel, layer: int) -> float:
    """Factor of a layer's scores."""
    return float(model.get_decoder().layers[layer].self_attn.scaling)


def _split(found: Any, layers: int) -> list[Any]:
    """Each layer's part of a dataclass of tensors [B, L K, ...]."""
    if found is None:
        return [None] * layers
    parts = zip(*(_aligned(getattr(found, field.name), layers) for field in fields(found)), strict=True)
    return [type(found)(*part) for part in parts]


def _aligned(x: Tensor, layers: int) -> list[Tensor]:
    """Each layer's part, [B, K, ...], contiguous and where kernels may read whole vectors: one copy makes them all."""
    parts = x.reshape(len(x), layers, x.shape[1] // layers, *x.shape[2:]).transpose(0, 1)
    flat = parts.flatten(1)
    return [part[: flat.shape[1]].view(parts.shape[1:]) for part in pad(flat, (0, -flat.shape[1] % MULTIPLE))]


def _outliers(rows: Sequence[BoundaryState], dtype: torch.dtype, layers: int) -> list[OutlierKeys | None]:
    """The outliers of all rows by layer, [B, K, M, D]; zeros behind those of a row with fewer.

    M is a multiple of MULTIPLE: the kernels are compiled for it, and a graph of a step made for it.
    """
    keys, values = (
        pad_sequence([getattr(row, name).transpose(0, 1) for row in rows], batch_first=True).transpose(1, 2).to(dtype)
        for name in ("keys", "values")
    )
    count = torch.stack([row.held.sum(1) for row in rows]).int()
    most = count.view(len(rows), layers, -1).amax((0, 2)).tolist()
    keys, values = (pad(x, (0, 0, 0, -x.shape[2] % MULTIPLE)) for x in (keys, values))
    found: list[OutlierKeys | None] = []
    for part, held in zip(_split(OutlierKeys(keys, values, count), layers), most, strict=True):
        some = slice(-(-held // MULTIPLE) * MULTIPLE)
        # A view, be it of all M, would keep those of all layers alive.
        keys, values = (x[:, :, some].clone(memory_format=torch.contiguous_format) for x in (part.keys, part.values))
        found.append(OutlierKeys(keys, values, part.count) if held else None)
    return found
