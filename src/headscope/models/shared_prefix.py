"""Attention of many rows over one shared prefix, each row under its criterion.

Shapes: R rows (r of one group), H query heads, K KV heads, G = H // K, Q queries, P prefix keys, S own keys of a row,
T = P + S, M outlier keys, D head_dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import Correction, Criterion, LayerView
from headscope.heads.mass import group_heads, masked_log_mass, precise, query_chunks
from headscope.heads.outliers import NO_OUTLIERS, Outliers, Part
from headscope.heads.window import Window
from headscope.models.attention import LayerCall
from headscope.models.counts import LocalCounts
from headscope.models.frozen import Frozen, freeze


@dataclass(frozen=True)
class Rows:
    """Rows of one criterion, which differ in their targets.

    Attributes:
        criterion: labels them.
        count: how many there are.
        outliers: keys that belong to their window too.
    """

    criterion: Criterion
    count: int = 1
    outliers: Outliers = NO_OUTLIERS


@dataclass(frozen=True)
class Scored:
    """Scores of some queries and what they may see.

    Attributes:
        call: the attention call.
        query: its queries, [R, H, Q, D].
        position: where they stand, [Q].
        scores: [R, H, Q, T].
        local: the plain window, bool [Q, T].
        bulk: all other visible keys, bool [Q, T].
        bulk_size: [Q].
    """

    call: LayerCall
    query: Tensor
    position: Tensor
    scores: Tensor
    local: Tensor
    bulk: Tensor
    bulk_size: Tensor

    @cached_property
    def columns(self) -> Tensor:
        """Keys that the plain window of any query holds; finding them waits for the GPU, so once for all rows."""
        return self.local.any(0).nonzero()[:, 0]


class SharedPrefix:
    """State of a batch of rows; handed to the model as its forward keyword.

    Attributes:
        length: P, tokens of the prefix.
        rows: rows still decoding.
        counts: labels given so far, of all rows.
    """

    def __init__(
        self,
        prefix: Sequence[LayerCache],
        groups: Sequence[Rows],
        window: Window,
        counts: LocalCounts | None = None,
    ):
        self.prefix, self.window, self.groups = prefix, window, list(groups)
        self.length = prefix[0].keys.shape[1]
        self.rows = sum(group.count for group in groups)
        self.counts = LocalCounts(self.rows) if counts is None else counts
        self.chosen: dict[Outliers, dict[int, list[Part]]] = {}
        self.frozen: dict[tuple[int, Outliers], Frozen] = {}

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices into the present ones) alone."""
        groups = []
        for group, span in self._spans():
            inside = rows[(rows >= span.start) & (rows < span.stop)] - span.start
            if len(inside):
                groups.append(Rows(group.criterion.take(inside), len(inside), group.outliers))
        self.groups, self.rows = groups, len(rows)
        self.counts.keep(rows)

    def attend(self, call: LayerCall) -> Tensor:
        """Attention of every row over prefix and own keys, [R, H, Q, D], in chunks of queries."""
        keys = self.length + call.key.shape[2]
        scores_per_query = call.query.shape[0] * call.query.shape[1] * keys
        parts = [self._attend(call, part) for part in query_chunks(call.query.shape[2], scores_per_query)]
        return torch.cat(parts, dim=2)

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Each group with its rows."""
        first = 0
        for group in self.groups:
            yield group, slice(first, first + group.count)
            first += group.count

    def _attend(self, call: LayerCall, part: slice) -> Tensor:
        query = call.query[:, :, part]
        device, own = query.device, call.key.shape[2]
        position = torch.arange(part.start, part.stop, device=device) + self.length + own - call.query.shape[2]
        key_position = torch.arange(self.length + own, device=device)
        scores = self._scores(call, query)
        if call.sliding is not None:
            visible = Window(0, call.sliding).local(position, key_position)
            return self._weighted_values(call, _softmax(scores, visible), slice(None)).to(query.dtype)
        local, bulk = self.window.local(position, key_position), self.window.bulk(position, key_position)
        scored = Scored(call, query, position, scores, local, bulk, self.window.bulk_size(position))
        return self._output(scored, *self._label(scored)).to(query.dtype)

    def _label(self, scored: Scored) -> tuple[Tensor, list[tuple[slice, Correction]]]:
        """Ask every criterion about its rows; returns what is long, bool [R, H, Q], and corrections of some."""
        long, counted, corrections = [], [], []
        for group, rows in self._spans():
            view = self._view(scored, group, rows)
            selection = group.criterion.select(scored.query[rows], view)
            long.append(selection.long)
            has_bulk = view.bulk_size > min(part.outliers for part in view.summaries)
            counted.append(has_bulk.expand(group.count, -1))
            if selection.correction is not None:
                corrections.append((rows, selection.correction))
        labels = torch.cat(long)
        self.counts.add(scored.call.layer, labels, scored.call.key.shape[1], torch.cat(counted))
        return labels, corrections

    def _output(self, scored: Scored, long: Tensor, corrections: list[tuple[slice, Correction]]) -> Tensor:
        """Attention of every row as its labels say, local pairs corrected, [R, H, Q, D]; overwrites the scores."""
        call, scores = scored.call, scored.scores
        visible = scored.local | (scored.bulk & long[..., None])
        held = [(rows, self._frozen(call, group.outliers)) for group, rows in self._spans() if group.outliers.count]
        for rows, frozen in held:
            visible[rows, ..., : self.length] |= frozen.marks
            if frozen.key_error is not None:
                rounded = frozen.rounded_scores(scored.query[rows], scores[rows], call.scale)
                scores[rows] = torch.where(long[rows, ..., None], scores[rows], rounded)
        weights = _softmax(scores, visible)
        output = self._weighted_values(call, weights, slice(None))
        for rows, frozen in held:
            output[rows] += frozen.rounding_of(weights[rows]) * ~long[rows, ..., None]
        for rows, correction in corrections:
            corrected = correction.merged(output[rows], masked_log_mass(scores[rows], visible[rows]))
            output[rows] = torch.where(long[rows, ..., None], output[rows], corrected)
        return output

    def _view(self, scored: Scored, group: Rows, rows: slice) -> LayerView:
        """What a group's criterion may look at."""
        call, scores = scored.call, scored.scores[rows]
        frozen = self._frozen(call, group.outliers)
        window, bulk = scored.local, scored.bulk
        if group.outliers.count:
            marks = pad(frozen.marks, (0, scores.shape[-1] - self.length))
            window, bulk = window | marks, bulk & ~marks
        held = cache(partial(frozen.rounded_scores, scored.query[rows], scores, call.scale))
        return LayerView(
            call.layer,
            call.scale,
            scored.bulk_size,
            frozen.summaries,
            measure_window=lambda: self._window_mass(scored, frozen, held()),
            attend_window=lambda: self._attend_window(call, held(), window, rows, frozen),
            exact_mass=partial(masked_log_mass, scores, bulk),
            exact_output=partial(self._attend_bulk, call, scores, bulk, rows),
        )

    def _window_mass(self, scored: Scored, frozen: Frozen, held: Tensor) -> Tensor:
        """Log mass of the window of some rows, outliers included, [r, H, Q]."""
        mass = masked_log_mass(held[..., scored.columns], scored.local[:, scored.columns])
        # Outliers are bulk keys of every query from the boundary on: the plain window only moves away from them.
        return torch.logaddexp(mass, frozen.outlier_mass(held)) if frozen.outliers.shape[1] else mass

    def _frozen(self, call: LayerCall, outliers: Outliers) -> Frozen:
        """Outliers and summaries of a layer, made once for all rows that ask for the same ones."""
        key = (call.layer, outliers)
        if key not in self.frozen:
            used = [group.criterion.estimator for group in self.groups if group.outliers == outliers]
            parts = self._parts(outliers)[call.layer]
            self.frozen[key] = freeze(parts, call.query.shape[1], outliers.bits, used)
        return self.frozen[key]

    def _parts(self, outliers: Outliers) -> dict[int, list[Part]]:
        """The outliers of every full-attention layer, which may share what there is."""
        if outliers not in self.chosen:
            asked = self.window.summarised(self.length)
            bulks = [Bulk.between(cache, *asked) for cache in self.prefix if cache.sliding is None]
            layers = [bulk.cache.layer for bulk in bulks]
            self.chosen[outliers] = dict(zip(layers, outliers.parts(bulks), strict=True))
        return self.chosen[outliers]

    def _attend_window(self, call: LayerCall, scores: Tensor, window: Tensor, rows: slice, frozen: Frozen) -> Tensor:
        """Attention of some rows over the window alone, [r, H, Q, D]: what a local pair gives."""
        weights = _softmax(scores, window)
        return self._weighted_values(call, weights, rows) + frozen.rounding_of(weights)

    def _attend_bulk(self, call: LayerCall, scores: Tensor, bulk: Tensor, rows: slice) -> Tensor:
        """Attention of some rows over the bulk alone, [r, H, Q, D]; zero where it has none."""
        return self._weighted_values(call, _softmax(scores, bulk).nan_to_num(nan=0.0), rows)

    def _scores(self, call: LayerCall, query: Tensor) -> Tensor:
        """Scores of prefix and own keys, [R, H, Q, T]; one product reads the prefix for all rows."""
        rows, heads, queries, _ = query.shape
        prefix, own = precise(self.prefix[call.layer].keys), precise(call.key)
        grouped = group_heads(precise(query), own.shape[1])
        shared = grouped.transpose(0, 1).flatten(1, 3) @ prefix.transpose(1, 2)
        shared = shared.view(own.shape[1], rows, -1, queries, self.length).transpose(0, 1)
        separate = grouped @ own.transpose(2, 3)[:, :, None]
        scores = torch.cat([shared, separate], dim=-1).view(rows, heads, queries, -1)
        return scores.mul_(call.scale)

    def _weighted_values(self, call: LayerCall, weights: Tensor, among: slice) -> Tensor:
        """Sum the values of these rows under [r, H, Q, T] weights: [r, H, Q, D]."""
        rows, heads, queries, _ = weights.shape
        prefix, own = precise(self.prefix[call.layer].values), precise(call.value[among])
        grouped = group_heads(weights, own.shape[1])
        shared = grouped[..., : self.length].transpose(0, 1).flatten(1, 3) @ prefix
        shared = shared.view(own.shape[1], rows, -1, queries, prefix.shape[-1]).transpose(0, 1)
        separate = grouped[..., self.length :] @ own[:, :, None]
        return (shared + separate).reshape(rows, heads, queries, -1)


def _softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Attention weights over the visible keys, [r, H, Q, T]; NaN where there is none (a query sees its own key)."""
    return scores.masked_fill(~visible, -torch.inf).softmax(-1)
