"""What a boundary leaves of a batch for decoding: outliers and summaries of every row, as the kernels read them.

Shapes: B rows, H query heads, K KV heads, T keys that a cache can hold, P keys of a row, M outliers, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from headscope import kernels
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import Estimator
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.mass import precise
from headscope.heads.moved import moved
from headscope.heads.rest import means_of_parts, rest_of_parts
from headscope.kernels.layer import Means, Outliers, Rest, Rule
from headscope.models.adaptive_criterion import AdaptiveCriterion
from headscope.models.frozen import Frozen, freeze
from headscope.models.geometry import geometry

MULTIPLE = 64
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

    rest: Rest
    means: Means | None
    outliers: Outliers | None
    rule: Rule
    scale: float
    by_kernels: bool
    workspace: Any = None


@torch.no_grad()
def states(
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
    estimator, heads = criterion.recipe.built_estimator(), geometry(model.config).heads
    rows = [
        _frozen(model, criterion, estimator, {layer: _row(pair, b, span) for layer, pair in caches.items()}, position)
        for b, (span, position) in enumerate(zip(spans, positions, strict=True))
    ]
    found = {}
    for layer, (keys, values) in caches.items():
        frozen, by_kernels = [row[layer] for row in rows], kernels.serve(keys.detach(), values.detach())
        dtype = keys.dtype if by_kernels else precise(keys[:0]).dtype
        summaries = [[part.of[estimator.name] for part in row.summaries] for row in frozen]
        found[layer] = LayerState(
            rest=rest_of_parts(estimator, summaries, dtype),
            means=means_of_parts(summaries) if isinstance(estimator, Clusters) else None,
            outliers=_outliers(frozen, dtype),
            rule=criterion.rule(layer, threshold, len(spans), heads, keys.device),
            scale=scale_of(model, layer),
            by_kernels=by_kernels,
        )
    return found


def scale_of(model: PreTrainedModel, layer: int) -> float:
    """Factor of a layer's scores."""
    return float(model.get_decoder().layers[layer].self_attn.scaling)


def _frozen(
    model: PreTrainedModel,
    criterion: AdaptiveCriterion,
    estimator: Estimator,
    pairs: Mapping[int, Pair],
    position: int,
) -> dict[int, Frozen]:
    """One row's outliers, which its layers may share, and summaries."""
    bulks, fitted, outliers = [], criterion.probes, criterion.recipe.outliers
    for layer, (keys, values) in pairs.items():
        probes = None if fitted is None else moved(fitted.at(model, layer, position), keys.device)
        cache = LayerCache(layer, keys, values, scale_of(model, layer), probes)
        bulks.append(Bulk.between(cache, *criterion.window.summarised(keys.shape[1])))
    heads = geometry(model.config).heads
    made = [freeze(parts, heads, outliers.bits, [estimator]) for parts in outliers.parts(bulks)]
    return dict(zip(pairs, made, strict=True))


def _row(pair: Pair, row: int, span: tuple[int, int]) -> Pair:
    """Keys and values of one row without padding, [K, P, D] each."""
    keys, values = (x[row, :, span[0] : span[1]] for x in pair)
    return keys, values


def _outliers(rows: Sequence[Frozen], dtype: torch.dtype) -> Outliers | None:
    """The outliers of all rows, [B, K, M, D]; zeros behind those of a row with fewer.

    M is a multiple of MULTIPLE: the kernels are compiled for it, and a graph of a step made for it.
    """
    keys, values = (
        pad_sequence([getattr(row, name).transpose(0, 1) for row in rows], batch_first=True).transpose(1, 2)
        for name in ("keys", "values")
    )
    if not keys.shape[2]:
        return None
    keys, values = (pad(x, (0, 0, 0, -x.shape[2] % MULTIPLE)) for x in (keys, values))
    count = torch.stack([row.held.sum(1) for row in rows]).int()
    return Outliers(keys.to(dtype).contiguous(), values.to(dtype).contiguous(), count)
