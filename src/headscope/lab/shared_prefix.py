"""Attention of many rows over one shared prefix, each row under its criterion.

Shapes: R rows (r of one group), H query heads, K KV heads, Q queries, P prefix keys, S own keys of a row, T = P + S,
N keys that leave the window, D head_dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from headscope.heads.boundary_state import STREAMING, BoundaryState, Summaries, make_boundary_state
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.decision import decide
from headscope.heads.mass import masked_log_mass, query_chunks
from headscope.heads.outliers import OutlierRule
from headscope.heads.reading import Reading, decision_bytes
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts
from headscope.lab.rows import Rows
from headscope.lab.scores import Scored, Windowed, all_scores, weighted_values
from headscope.models.attention import LayerCall


class SharedPrefix:
    """State of a batch of rows; handed to the model as its forward keyword.

    Attributes:
        prefix: keys and values that all rows share, by the layer's index.
        length: P, tokens of the prefix.
        groups: the rows of each criterion.
        rows: rows still decoding.
        counts: what all rows read so far; None counts nothing.
        counting: whether the next queries count.
    """

    def __init__(
        self,
        prefix: Sequence[LayerCache] | Mapping[int, LayerCache],
        groups: Sequence[Rows],
        window: Window,
        counts: ReadingCounts | None = None,
    ):
        self.prefix = prefix if isinstance(prefix, Mapping) else dict(enumerate(prefix))
        self.window, self.groups, self.counts, self.counting = window, list(groups), counts, True
        self.length = next(iter(self.prefix.values())).keys.shape[1]
        self.rows = sum(group.count for group in groups)
        self._outliers: dict[OutlierRule, dict[int, tuple[Bulk, Tensor]]] = {}
        self._states: dict[tuple[int, OutlierRule], BoundaryState] = {}
        self._costs: dict[tuple[int, OutlierRule, float], Tensor] = {}
        # Streaming summaries of each group's rows, by layer, and the first key that is not in them yet.
        self._streams: list[dict[int, Summaries]] = [{} for _ in groups]
        self._unknown: dict[int, int] = {}

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices into the present ones) alone."""
        groups, streams = [], []
        for (group, span), stream in zip(self._spans(), self._streams, strict=True):
            inside = rows[(rows >= span.start) & (rows < span.stop)] - span.start
            if len(inside):
                groups.append(group.take(inside))
                streams.append({layer: summaries.take(inside) for layer, summaries in stream.items()})
        self.groups, self._streams, self.rows = groups, streams, len(rows)
        if self.counts is not None:
            self.counts.keep(rows)

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row over prefix and own keys, [R, H, Q, D], in chunks of queries."""
        keys, query = self.length + call.key.shape[2], call.query
        if call.sliding is None:
            self.stream(call, keys - query.shape[2])
        chunks = query_chunks(query.shape[2], query.shape[0] * query.shape[1] * keys, query.device)
        return torch.cat([self._attend(call, part) for part in chunks], dim=2)

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Yield each group with its rows."""
        first = 0
        for group in self.groups:
            yield group, slice(first, first + group.count)
            first += group.count

    def _attend(self, call: LayerCall, part: slice) -> Tensor:
        query, tokens = call.query[:, :, part], self.length + call.key.shape[2]
        first = tokens - call.query.shape[2] + part.start
        keys = torch.arange(tokens, device=query.device)
        prefix, position = self.prefix[call.layer], keys[first : first + query.shape[2]]
        scores = all_scores(call, prefix, query)
        if call.sliding is not None:
            visible = Window(0, call.sliding).local(position, keys)
            weights = scores.masked_fill_(~visible, -torch.inf).softmax(-1)
            return weighted_values(weights, prefix.values, call.value).to(query.dtype)
        local, bulk = self.window.local(position, keys), self.window.bulk(position, keys)
        scores.masked_fill_(~(local | bulk), -torch.inf)
        sizes, spans = self.window.bulk_size(position), self.window.columns(first, first + len(position))
        columns = torch.cat([keys[span.start : span.stop] for span in spans])
        of_prefix = sum(len(range(span.start, min(span.stop, self.length))) for span in spans)
        scored = Scored(call, prefix, query, position, scores, local, bulk, sizes, columns, of_prefix)
        return self._decided(scored).to(query.dtype)

    def _decided(self, scored: Scored) -> Tensor:
        """Decide for every row: a long pair attends to all keys, a local one to its window, [R, H, Q, D]."""
        output, readings = scored.weighted_values(scored.scores.softmax(-1)), []
        for index, (group, rows) in enumerate(self._spans()):
            view = self.view(scored, index, rows)
            reading = decide(group.criterion, scored.query[rows], view)
            output[rows] = torch.where(reading.heads[..., None], output[rows], view.window_output)
            readings.append(reading)
        if self.counts is not None:
            self._count(scored, readings, self.counts)
        return output

    def _count(self, scored: Scored, readings: Sequence[Reading], counts: ReadingCounts) -> None:
        # Fewer keys than are outside the plain window are outliers, so that every row has a bulk, or none has.
        counted = ((scored.bulk_size > 0) & self.counting).expand(self.rows, -1)
        reading = Reading(torch.cat([r.heads for r in readings]), torch.cat([r.groups for r in readings]))
        costs = [self._decision_bytes(scored.call, group).expand(group.count) for group in self.groups]
        counts.add(scored.call.layer, reading, counted, scored.position + 1, torch.cat(costs))

    def _decision_bytes(self, call: LayerCall, group: Rows) -> Tensor:
        """Return the bytes that a decision of a group's row reads beside the plain window, over all KV heads, [1]."""
        head_dim = call.key.shape[3]
        numbers = group.criterion.summary_numbers(head_dim)
        key = call.layer, group.outliers, numbers
        if key not in self._costs:
            outliers = self._state(call, group.outliers).present.sum(1)
            self._costs[key] = decision_bytes(outliers, group.outliers.bits, numbers, head_dim).sum(0, keepdim=True)
        return self._costs[key]

    def view(self, scored: Scored, index: int, rows: slice) -> LayerView:
        """Return what the criterion of a group may look at."""
        outliers = self.groups[index].outliers
        state, windowed = self._state(scored.call, outliers), self._windowed(scored, rows, outliers)
        return LayerView(
            scored.call.layer,
            scored.call.scale,
            scored.call.key.shape[1],
            windowed.mass,
            windowed.output,
            scored.bulk_size,
            self._streams[index].get(scored.call.layer, state.summaries),
            exact_mass=lambda: masked_log_mass(scored.scores[rows], self._bulk(scored, outliers)),
            exact_output=partial(self._attend_bulk, scored, rows, outliers),
        )

    def _windowed(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Windowed:
        """Attend to the windows of some rows; one product serves all rows with the same outliers."""
        if outliers not in scored.windowed:
            # From the first to the last of them; groups in between, if any, cost time alone.
            spans = [span for group, span in self._spans() if group.outliers == outliers] or [rows]
            sharing = slice(spans[0].start, spans[-1].stop)
            scored.windowed[outliers] = sharing.start, self._attend_windows(scored, sharing, outliers)
        first, windowed = scored.windowed[outliers]
        within = slice(rows.start - first, rows.stop - first)
        return Windowed(windowed.mass[within], windowed.output[within])

    def _attend_windows(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Windowed:
        """Attend to the plain window and the outliers, whose keys and values alone are touched."""
        # Outliers are bulk keys of every query from the boundary on: the plain window only moves away from them.
        columns, state = scored.columns, self._state(scored.call, outliers)
        scores = torch.cat([scored.plain[rows], state.scores(scored.query[rows], scored.call.scale)], -1)
        of_plain, of_outliers = scores.softmax(-1).tensor_split([len(columns)], -1)
        prefix, own = columns.tensor_split([scored.of_prefix])
        values = scored.prefix.values[:, prefix], scored.call.value[rows][:, :, own - self.length]
        output = weighted_values(of_plain, *values) + state.weighted_values(of_outliers)
        return Windowed(scores.logsumexp(-1), output)

    def _bulk(self, scored: Scored, outliers: OutlierRule) -> Tensor:
        """Mark the bulk without outliers, bool [H, Q, T]."""
        bulk, marks = self._chosen(outliers)[scored.call.layer]
        taken = torch.zeros(len(marks), scored.bulk.shape[1], dtype=torch.bool, device=marks.device)
        taken = taken.scatter(1, bulk.index, marks).repeat_interleave(scored.query.shape[1] // len(marks), 0)
        return scored.bulk & ~taken[:, None]

    def _attend_bulk(self, scored: Scored, rows: slice, outliers: OutlierRule) -> Tensor:
        """Attend of some rows to the bulk alone, [r, H, Q, D]; zero where it has no key."""
        weights = scored.scores[rows].masked_fill(~self._bulk(scored, outliers), -torch.inf).softmax(-1)
        return scored.weighted_values(weights.nan_to_num(nan=0.0), rows)

    def _state(self, call: LayerCall, outliers: OutlierRule) -> BoundaryState:
        """Return a layer's outliers and summaries, made once for all rows with the same outliers."""
        key = (call.layer, outliers)
        if key not in self._states:
            estimators = [group.criterion.estimator for group in self.groups if group.outliers == outliers]
            group = call.query.shape[1] // call.key.shape[1]
            bulk, marks = self._chosen(outliers)[call.layer]
            self._states[key] = make_boundary_state(bulk, marks, group, outliers.bits, estimators)
        return self._states[key]

    def _chosen(self, outliers: OutlierRule) -> dict[int, tuple[Bulk, Tensor]]:
        """Return bulk and outliers of every full-attention layer; layers may share a number of outliers."""
        if outliers not in self._outliers:
            ends = self.window.summarised(self.length)
            bulks = [Bulk.between(cache, *ends) for cache in self.prefix.values() if cache.sliding is None]
            self._outliers[outliers] = {bulk.cache.layer: (bulk, marks) for bulk, marks in outliers.marked(bulks)}
        return self._outliers[outliers]

    def stream(self, call: LayerCall, first_query: int) -> None:
        """Let the keys that have left the windows of all queries from a position on join the summaries that stream."""
        layer = call.layer
        start = self._unknown.get(layer, self.window.summarised(self.length)[1])
        end = max(start, first_query + 1 - self.window.recent)
        for (group, rows), stream in zip(self._spans(), self._streams, strict=True):
            estimator = group.criterion.estimator
            if end > start and group.criterion.summaries == STREAMING and estimator is not None:
                if layer not in stream:
                    stream[layer] = self._state(call, group.outliers).summaries.for_rows(group.count)
                stream[layer] = stream[layer].updated(estimator, *self._leaving(call, rows, start, end))
        self._unknown[layer] = end

    def _leaving(self, call: LayerCall, rows: slice, start: int, end: int) -> Iterator[Tensor]:
        """Yield keys, then values, of the positions start <= j < end of some rows, [r, K, N, D]."""
        prefix, length = self.prefix[call.layer], self.length
        for shared, own in ((prefix.keys, call.key), (prefix.values, call.value)):
            of_rows = own[rows, :, max(start - length, 0) : max(end - length, 0)]
            yield torch.cat([shared[:, start : min(end, length)].expand(len(of_rows), -1, -1, -1), of_rows], 2)
