"""Attention of many rows over one shared prefix, each row under its criterion.

Shapes: R rows (r of one group), H query heads, K KV heads, G = H // K, Q queries, P prefix keys, S own keys of a row,
T = P + S, M outlier keys, D head_dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.heads.boundary_state import BoundaryState, make_boundary_state
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import Criterion
from headscope.heads.mass import group_heads, masked_log_mass, precise, query_chunks
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule, importance
from headscope.heads.to_device import to_device
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.lab.counts import LocalCounts
from headscope.models.attention import LayerCall


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
    outliers: OutlierRule = NO_OUTLIERS

    def on(self, device: torch.device) -> "Rows":
        """The same with the criterion's tensors on the device."""
        return replace(self, criterion=to_device(self.criterion, device))


class Windowed(NamedTuple):
    """Attention over the window, outliers included, of some rows.

    Attributes:
        mass: log mass, [r, H, Q].
        output: what a local pair gives, [r, H, Q, D].
    """

    mass: Tensor
    output: Tensor


@dataclass(frozen=True)
class Scored:
    """Scores of some queries and what they may see.

    Attributes:
        call: the attention call.
        query: its queries, [R, H, Q, D].
        position: where they stand, [Q].
        scores: [R, H, Q, T]; -inf for keys that come later.
        local: the plain window, bool [Q, T].
        bulk: all other visible keys, bool [Q, T].
        bulk_size: [Q].
        columns: keys that the plain window of any query holds, [C].
        of_prefix: how many of them are the prefix's, which come first.
        windowed: attention over windows with some outliers, once it was asked for, and its first row.
    """

    call: LayerCall
    query: Tensor
    position: Tensor
    scores: Tensor
    local: Tensor
    bulk: Tensor
    bulk_size: Tensor
    columns: Tensor
    of_prefix: int
    windowed: dict[OutlierRule, tuple[int, Windowed]] = field(default_factory=dict)

    @cached_property
    def plain(self) -> Tensor:
        """Scores of the plain window, [R, H, Q, C] for the keys in `columns`; -inf for those of other queries."""
        return self.scores[..., self.columns].masked_fill(~self.local[:, self.columns], -torch.inf)


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
        self.importances: dict[tuple[str, int], Tensor] = {}
        self.chosen: dict[OutlierRule, dict[int, tuple[Bulk, Tensor]]] = {}
        self.frozen: dict[tuple[int, OutlierRule], BoundaryState] = {}

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
        keys, query = self.length + call.key.shape[2], call.query
        chunks = query_chunks(query.shape[2], query.shape[0] * query.shape[1] * keys, query.device)
        parts = [self._attend(call, part) for part in chunks]
        return torch.cat(parts, dim=2)

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Each group with its rows."""
        first = 0
        for group in self.groups:
            yield group, slice(first, first + group.count)
            first += group.count

    def _attend(self, call: LayerCall, part: slice) -> Tensor:
        query, tokens = call.query[:, :, part], self.length + call.key.shape[2]
        first = tokens - call.query.shape[2] + part.start
        keys = torch.arange(tokens, device=query.device)
        position, scores = keys[first : first + query.shape[2]], self._scores(call, query)
        if call.sliding is not None:
            visible = Window(0, call.sliding).local(position, keys)
            weights = scores.masked_fill_(~visible, -torch.inf).softmax(-1)
            return self._weighted_values(call, weights).to(query.dtype)
        local, bulk = self.window.local(position, keys), self.window.bulk(position, keys)
        scores.masked_fill_(~(local | bulk), -torch.inf)
        sizes, spans = self.window.bulk_size(position), self.window.columns(first, first + len(position))
        columns = torch.cat([keys[span.start : span.stop] for span in spans])
        of_prefix = sum(len(range(span.start, min(span.stop, self.length))) for span in spans)
        scored = Scored(call, query, position, scores, local, bulk, sizes, columns, of_prefix)
        return self._decided(scored).to(query.dtype)

    def _decided(self, scored: Scored) -> Tensor:
        """Ask every criterion about its rows; a long pair reads every key, a local one its window: [R, H, Q, D]."""
        output, labels = self._whole(scored), []
        for group, rows in self._spans():
            view = self._view(scored, group, rows)
            selection = group.criterion.select(scored.query[rows], view)
            local = view.window_output()
            if selection.correction is not None:
                local = selection.correction.merged(local, view.window_mass)
            output[rows] = torch.where(selection.long[..., None], output[rows], local)
            labels.append(selection.long)
        # Fewer keys than are outside the plain window are outliers, so that every row has a bulk, or none has.
        counted = (scored.bulk_size > 0).expand(self.rows, -1)
        self.counts.add(scored.call.layer, torch.cat(labels), scored.call.key.shape[1], counted)
        return output

    def _whole(self, scored: Scored) -> Tensor:
        """Attention of every row over all keys, [R, H, Q, D]."""
        return self._weighted_values(scored.call, scored.scores.softmax(-1))

    def _view(self, scored: Scored, group: Rows, rows: slice) -> LayerView:
        """What a group's criterion may look at."""
        frozen = self._frozen(scored.call, group.outliers)
        windowed = partial(self._windowed, scored, rows, group.outliers)
        return LayerView(
            scored.call.layer,
            scored.call.scale,
            scored.bulk_size,
            frozen.summaries,
            measure_window=lambda: windowed().mass,
            attend_window=lambda: windowed().output,
            exact_mass=lambda: masked_log_mass(scored.scores[rows], self._bulk(scored, group.outliers)),
            exact_output=partial(self._attend_bulk, scored, rows, group.outliers),
        )

    def _windowed(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Windowed:
        """Attention of some rows over their windows; one product serves all rows with the same outliers."""
        if outliers not in scored.windowed:
            # From the first to the last of them; groups in between, if any, cost time alone.
            spans = [span for group, span in self._spans() if group.outliers == outliers]
            sharing = slice(spans[0].start, spans[-1].stop)
            scored.windowed[outliers] = sharing.start, self._attend_windows(scored, sharing, outliers)
        first, found = scored.windowed[outliers]
        within = slice(rows.start - first, rows.stop - first)
        return Windowed(found.mass[within], found.output[within])

    def _attend_windows(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Windowed:
        """Attend to the plain window and the outliers, whose keys and values alone are touched."""
        # OutlierRule are bulk keys of every query from the boundary on: the plain window only moves away from them.
        call, columns, frozen = scored.call, scored.columns, self._frozen(scored.call, outliers)
        scores = torch.cat([scored.plain[rows], frozen.scores(scored.query[rows], call.scale)], -1)
        of_plain, of_outliers = scores.softmax(-1).tensor_split([len(columns)], -1)
        prefix, own = columns.tensor_split([scored.of_prefix])
        values = self.prefix[call.layer].values[:, prefix], call.value[rows][:, :, own - self.length]
        return Windowed(scores.logsumexp(-1), _weighted(of_plain, *values) + frozen.weighted_values(of_outliers))

    def _bulk(self, scored: Scored, outliers: OutlierRule) -> Tensor:
        """The bulk without outliers, bool [H, Q, T]."""
        bulk, marks = self._chosen(outliers)[scored.call.layer]
        taken = torch.zeros(len(marks), scored.bulk.shape[1], dtype=torch.bool, device=marks.device)
        taken = taken.scatter(1, bulk.index, marks).repeat_interleave(scored.query.shape[1] // len(marks), 0)
        return scored.bulk & ~taken[:, None]

    def _attend_bulk(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Tensor:
        """Attention of some rows over the bulk alone, [r, H, Q, D]; zero where it has none."""
        weights = scored.scores[rows].masked_fill(~self._bulk(scored, outliers), -torch.inf).softmax(-1)
        return self._weighted_values(scored.call, weights.nan_to_num(nan=0.0), rows)

    def _frozen(self, call: LayerCall, outliers: OutlierRule) -> BoundaryState:
        """OutlierRule and summaries of a layer, made once for all rows that ask for the same ones."""
        key = (call.layer, outliers)
        if key not in self.frozen:
            used = [group.criterion.estimator for group in self.groups if group.outliers == outliers]
            group = call.query.shape[1] // call.key.shape[1]
            self.frozen[key] = make_boundary_state(*self._chosen(outliers)[call.layer], group, outliers.bits, used)
        return self.frozen[key]

    def _chosen(self, outliers: OutlierRule) -> dict[int, tuple[Bulk, Tensor]]:
        """Bulk and outliers of every full-attention layer; layers may share what there is."""
        if outliers not in self.chosen:
            asked = self.window.summarised(self.length)
            bulks = [Bulk.between(cache, *asked) for cache in self.prefix if cache.sliding is None]
            marked = outliers.marked(bulks, self._importance)
            self.chosen[outliers] = {bulk.cache.layer: (bulk, marks) for bulk, marks in marked}
        return self.chosen[outliers]

    def _importance(self, rule: str, bulk: Bulk) -> Tensor:
        """Importances of a layer's bulk keys, [K, N], found once for all outliers that differ in their numbers."""
        key = (rule, bulk.cache.layer)
        if key not in self.importances:
            self.importances[key] = importance(rule, bulk)
        return self.importances[key]

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

    def _weighted_values(self, call: LayerCall, weights: Tensor, rows: slice = slice(None)) -> Tensor:
        """Sum the values of all keys under these rows' weights, [r, H, Q, T]: [r, H, Q, D]."""
        return _weighted(weights, self.prefix[call.layer].values, call.value[rows])


def _weighted(weights: Tensor, prefix: Tensor, own: Tensor) -> Tensor:
    """Sum values of the prefix, [K, C, D], and own ones, [r, K, O, D], under [r, H, Q, C + O] weights: [r, H, Q, D]."""
    rows, heads, queries, _ = weights.shape
    of_prefix, of_own = group_heads(weights, own.shape[1]).tensor_split([prefix.shape[1]], -1)
    shared = of_prefix.transpose(0, 1).flatten(1, 3) @ precise(prefix)
    shared = shared.view(own.shape[1], rows, -1, queries, prefix.shape[-1]).transpose(0, 1)
    return (shared + of_own @ precise(own)[:, :, None]).reshape(rows, heads, queries, -1)
