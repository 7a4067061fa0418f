"""A batch that decodes under a calibrated criterion: outliers and summaries of every row, one query after the other.

They are made where the boundary leaves the cache. A key that leaves the window then joins its cluster; a Gaussian stays
as the boundary found it, as the paper has it. In half precision on a GPU the kernels decide and attend, elsewhere their
torch reference, which is right and not fast.

Shapes: B rows, H query heads, K KV heads, T keys that a cache can hold, P keys of a row, M outliers, D head_dim.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from headscope import kernels
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import Estimator
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.mass import precise
from headscope.heads.moved import moved
from headscope.heads.rest import means_of_parts, rest_of_parts
from headscope.kernels import reference
from headscope.kernels.layer import Cache, Decoded, Means, Outliers, Rest, Rule
from headscope.models.adaptive_criterion import AdaptiveCriterion
from headscope.models.counts import LocalCounts
from headscope.models.frozen import Frozen, freeze
from headscope.models.geometry import geometry

PAGE = 64
Pair = tuple[Tensor, Tensor]
"""Keys and values of a layer as the model's cache holds them, [B, K, T, D] each."""


@dataclass
class _Layer:
    """What decides in one layer.

    Attributes:
        rest: summaries of the bulk without outliers.
        means: of clusters, which keys join; None: the summary stays.
        outliers: None where no row has any.
        rule: labels the heads.
        scale: factor of the scores.
        workspace: of the kernels, made at the first query.
    """

    rest: Rest
    means: Means | None
    outliers: Outliers | None
    rule: Rule
    scale: float
    workspace: Any = None


class Decoding:
    """Rows of one batch from their boundary on; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: the full-attention layers.
        counts: labels given so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        criterion: AdaptiveCriterion,
        threshold: float,
        caches: Mapping[int, Pair],
        spans: Sequence[tuple[int, int]],
        positions: Sequence[int],
    ):
        """Choose outliers and summarise the others.

        Args:
            model: in evaluation mode.
            criterion: calibrated for it.
            threshold: of the margin.
            caches: of each full-attention layer.
            spans: first and last (exclusive) key of each row; before lies padding, behind what was never written.
            positions: of the next query of each row, to which its keys' rotations refer.
        """
        self.window, self.spans, self.counts = criterion.window, spans, LocalCounts(len(spans))
        estimator, heads = criterion.recipe.built_estimator(), geometry(model.config).heads
        rows = [
            self._frozen(model, criterion, estimator, {i: _row(pair, b, span) for i, pair in caches.items()}, position)
            for b, (span, position) in enumerate(zip(spans, positions, strict=True))
        ]
        self.layers: dict[int, _Layer] = {}
        for index, (keys, _) in caches.items():
            found, dtype = [row[index] for row in rows], keys.dtype if kernels.serve(keys) else precise(keys[:0]).dtype
            summaries = [[part.of[estimator.name] for part in one.summaries] for one in found]
            means = means_of_parts(summaries) if isinstance(estimator, Clusters) else None
            rule = criterion.rule(index, threshold, len(spans), heads, keys.device)
            rest = rest_of_parts(estimator, summaries, dtype)
            self.layers[index] = _Layer(rest, means, _outliers(found, dtype), rule, _scale(model, index))

    def _frozen(
        self,
        model: PreTrainedModel,
        criterion: AdaptiveCriterion,
        estimator: Estimator,
        pairs: Mapping[int, Pair],
        position: int,
    ) -> dict[int, Frozen]:
        """One row's outliers, which its layers may share, and summaries."""
        bulks = []
        for layer, (keys, values) in pairs.items():
            fitted = criterion.probes
            probes = None if fitted is None else moved(fitted.at(model, layer, position), keys.device)
            cache = LayerCache(layer, keys, values, _scale(model, layer), probes)
            bulks.append(Bulk.between(cache, *self.window.summarised(keys.shape[1])))
        parts, outliers = criterion.recipe.outliers.parts(bulks), criterion.recipe.outliers
        heads = geometry(model.config).heads
        made = [freeze(layer, heads, outliers.bits, [estimator]) for layer in parts]
        return dict(zip(pairs, made, strict=True))

    def step(self, length: int, alive: Tensor) -> None:
        """Announce a query of every row.

        Args:
            length: keys of the cache with the query's own, padding included.
            alive: rows whose labels count, bool [B].
        """
        device = alive.device
        self.lengths = torch.tensor([length - start for start, _ in self.spans], dtype=torch.int32, device=device)
        self.counted = ((self.lengths > self.window.sink + self.window.recent) & alive)[:, None]

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one query of every row over all keys or its window, [B, H, 1, D]."""
        state, lengths = self.layers[layer], self.lengths.to(key.device)
        one = query[:, :, 0].to(state.rest.keys.dtype).contiguous()
        run = _by_kernels if kernels.serve(query, key, value) else _by_reference
        decoded = run(state, one, (key, value), lengths, [start for start, _ in self.spans], self.window)
        self.counts.add(layer, decoded.long[..., None], key.shape[1], self.counted.to(key.device))
        return decoded.output[:, :, None].to(query.dtype)


def _by_kernels(
    state: _Layer, query: Tensor, pair: Pair, lengths: Tensor, starts: Sequence[int], window: Any
) -> Decoded:
    """Rows that start behind padding are read in place, as overlapping pages that start at every key."""
    from headscope.kernels.decode import Workspace, decode  # Triton is no part of a CPU build of torch
    from headscope.kernels.join import join

    cache = Cache(*pair, lengths)
    if any(starts):
        cache = _paged(*pair, lengths, starts)
    if state.workspace is None:
        state.workspace = Workspace.of(query, pair[0].shape[1])
    if state.means is not None:
        join(cache, state.rest, state.means, window.sink, window.recent)
    given = state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    return decode(query, cache, *given, state.workspace)


def _by_reference(
    state: _Layer, query: Tensor, pair: Pair, lengths: Tensor, starts: Sequence[int], window: Any
) -> Decoded:
    keys, values = (x.to(query.dtype) for x in pair)
    if any(starts):
        keys, values = (
            torch.stack([row.roll(-first, 1) for row, first in zip(x, starts, strict=True)]) for x in (keys, values)
        )
    cache = Cache(keys, values, lengths)
    if state.means is not None:
        reference.join(cache, state.rest, state.means, window.sink, window.recent)
    return reference.decode(
        query, cache, state.rest, state.rule, window.sink, window.recent, state.scale, state.outliers
    )


def _paged(keys: Tensor, values: Tensor, lengths: Tensor, starts: Sequence[int]) -> Cache:
    """The same memory as pages: page n starts at key n of all memory, and the KV heads of a page lie T keys apart."""
    rows, kv_heads, most, dim = keys.shape
    page = min(PAGE, most)
    stride = keys.stride(2)
    first = torch.tensor(starts, device=keys.device) + torch.arange(rows, device=keys.device) * (
        keys.stride(0) // stride
    )
    pages = first[:, None] + torch.arange(0, most, page, device=keys.device)
    paged = [x.as_strided((1, kv_heads, page, dim), (stride, x.stride(1), stride, 1)) for x in (keys, values)]
    return Cache(paged[0], paged[1], lengths, pages.int())


def _row(pair: Pair, row: int, span: tuple[int, int]) -> Pair:
    """Keys and values of one row without padding, [K, P, D] each."""
    keys, values = (x[row, :, span[0] : span[1]] for x in pair)
    return keys, values


def _scale(model: PreTrainedModel, layer: int) -> float:
    """Factor of a layer's scores."""
    return float(model.get_decoder().layers[layer].self_attn.scaling)


def _outliers(rows: Sequence[Frozen], dtype: torch.dtype) -> Outliers | None:
    """The outliers of all rows, [B, K, M, D]; zeros behind those of a row with fewer."""
    keys, values = (
        pad_sequence([getattr(row, name).transpose(0, 1) for row in rows], batch_first=True).transpose(1, 2)
        for name in ("keys", "values")
    )
    if not keys.shape[2]:
        return None
    count = torch.stack([row.held.sum(1) for row in rows]).int()
    return Outliers(keys.to(dtype).contiguous(), values.to(dtype).contiguous(), count)
