"""Attention of many rows over one shared prefix, each row under its criterion.

Shapes: R rows (r of one group), H query heads, K KV heads, Q queries, P prefix keys, S own keys of a row, T = P + S,
N keys that leave the window, D head_dim.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from headscope.heads.boundary_state import STREAMING, BoundaryState, Summaries
from headscope.heads.bulk import LayerCache
from headscope.heads.decision import deciding_margin, is_long
from headscope.heads.mass import precise, query_chunks
from headscope.heads.outliers import OutlierRule
from headscope.heads.reading import decision_bytes
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.kernels.common.branches import side_by_side
from headscope.lab.at_boundary import AtBoundary, at_boundary
from headscope.lab.counts import ReadingCounts, StepLabels
from headscope.lab.parts import NEVER, Part, hiding, numbers_at_once
from headscope.lab.queries import LayerQueries, by_row
from headscope.lab.rows import Rows
from headscope.lab.selection import Reader, Selection, Selectors, merged
from headscope.lab.visible import PrefixLayer, Visible
from headscope.models.attention import LayerCall


class SharedPrefix:
    """State of a batch of rows; handed to the model as its forward keyword.

    Attributes:
        prompt_count: N; more than one where several are taken as one (`headscope.lab.as_one`).
        prefix: keys and values that all rows share, by the layer's index.
        length: P, tokens of the prefix.
        groups: the rows of each criterion.
        rows: rows still decoding.
        counts: what all rows read so far; None counts nothing.
        counting: whether the next queries count.
    """

    prompt_count = 1

    def __init__(
        self,
        prefix: Sequence[LayerCache] | Mapping[int, LayerCache],
        groups: Sequence[Rows],
        window: Window,
        counts: ReadingCounts | None = None,
    ):
        self.prefix = prefix if isinstance(prefix, Mapping) else dict(enumerate(prefix))
        self.window, self.groups, self.counting = window, list(groups), True
        self.counts: ReadingCounts | StepLabels | None = counts
        self.length = next(iter(self.prefix.values())).keys.shape[1]
        self.rows = sum(group.count for group in groups)
        self._layers: dict[tuple[int, Window], PrefixLayer] = {}
        self._visible: dict[tuple[Window, tuple[int, int], torch.device], Visible] = {}
        self._fixed: dict[tuple[int, int], Tensor] = {}
        self._row_costs: dict[int, Tensor] = {}
        self._all_thresholds: Tensor | None = None
        self._boundary: dict[OutlierRule, dict[int, AtBoundary]] = {}
        self._costs: dict[tuple[int, OutlierRule, float], Tensor] = {}
        self._selectors = Selectors(window, self.length)
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
        self._fixed.clear()
        self._row_costs.clear()
        self._all_thresholds = None
        if isinstance(self.counts, ReadingCounts):
            self.counts.keep(rows)

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, whose queries are the last of its own keys, [R, H, Q, D], chunk by chunk."""
        keys, query = self.length + call.key.shape[2], call.query
        if call.sliding is None:
            self.stream(call, keys - query.shape[2])
        chunks = query_chunks(query.shape[2], numbers_at_once(query, keys), query.device)
        return torch.cat([self._attend(self._queries(call, part)) for part in chunks], dim=2)

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Yield each group with its rows."""
        first = 0
        for group in self.groups:
            yield group, slice(first, first + group.count)
            first += group.count

    def _attend(self, queries: LayerQueries) -> Tensor:
        call = queries.call
        output = self._decided(queries) if call.sliding is None else queries.window.output
        # With tokens before heads in memory, which is what the model goes on with.
        return output.permute(1, 3, 0, 2, 4).flatten(2, 3).transpose(1, 2).to(call.query.dtype)

    def _queries(self, call: LayerCall, part: slice) -> LayerQueries:
        """Return queries of a chunk with what they see, which is the same for all layers of a kind."""
        query, window = precise(call.query[:, :, part]), self._window_of(call)
        first = self.length + call.key.shape[2] - call.query.shape[2] + part.start
        ends = first, first + query.shape[2] - 1
        key = window, ends, query.device
        if key not in self._visible:
            position = torch.arange(first, ends[1] + 1, device=query.device)
            # Those of the steps before are not needed again.
            self._visible = {k: v for k, v in self._visible.items() if k[1][0] >= first - call.query.shape[2]}
            self._visible[key] = Visible(window, self.length, position, ends, query.dtype)
        return LayerQueries(call, self._prefix_of(call), query, self._visible[key])

    def _window_of(self, call: LayerCall) -> Window:
        return self.window if call.sliding is None else Window(0, call.sliding)

    def _prefix_of(self, call: LayerCall) -> PrefixLayer:
        key = call.layer, self._window_of(call)
        if key not in self._layers:
            self._layers[key] = PrefixLayer.of(self.prefix[call.layer], key[1])
        return self._layers[key]

    def _decided(self, queries: LayerQueries) -> Tensor:
        """Decide for every row: a long pair attends to all keys, a local one to its window, [K, R, G, Q, D]."""
        queries.prepare()
        spans = list(self._spans())
        with_outliers = {group.outliers: rows for group, rows in spans if group.outliers.count}
        side_by_side([partial(self._windowed, queries, rows, rule) for rule, rows in with_outliers.items()])
        each = [partial(self._margins, queries, index, rows) for index, (_, rows) in enumerate(spans)]
        margins = torch.cat(side_by_side(each))
        long, local = is_long(margins, self._thresholds(margins.device)), self._local(queries)
        if any(group.selector is not None for group, _ in spans):
            return self._partly_selected(queries, local, long)
        tasks: list[Callable[[], Any]] = [partial(queries.whole, local, long), partial(self._count, queries, long)]
        output: Tensor = side_by_side(tasks)[0]
        return output

    def _partly_selected(self, queries: LayerQueries, local: Part, long: Tensor) -> Tensor:
        """Do what `_decided` does where some rows read chosen keys of a bulk in place of all."""
        chosen = ((rows, self._selected(queries, group, rows, long[rows])) for group, rows in self._spans())
        selected = [(rows, selection) for rows, selection in chosen if selection is not None]
        everything = merged(queries, local, long, selected)
        self._count(queries, long, everything.pairs)
        return everything.output

    def _selected(self, queries: LayerQueries, group: Rows, rows: slice, long: Tensor) -> Selection | None:
        """Let the KV heads of a group's rows read what its selector chooses, if it has one."""
        if group.selector is None:
            return None
        self._selectors.index(group.selector, queries.call.layer, self.prefix)
        local = self._windowed(queries, rows, group.outliers)
        taken = self._at_boundary(queries.call, group.outliers).taken
        decision = self._decision_bytes(queries.call, group).repeat(group.count) / len(queries.prefix.keys)
        reader = Reader(group, rows, local, long, taken, self._outside(queries, rows), decision)
        return self._selectors.read(queries, reader)

    def _local(self, queries: LayerQueries) -> Part:
        """Return what a pair gives that sees its window alone, outliers included, [K, R, G, Q]."""
        local = queries.window
        for group, rows in self._spans():
            if group.outliers.count:
                if local is queries.window:
                    local = Part(local.mass, local.output.clone())
                local.output[:, rows] = self._windowed(queries, rows, group.outliers).output
        return local

    def _thresholds(self, device: torch.device) -> Tensor:
        """Return the threshold of every row, [R N]."""
        if self._all_thresholds is None:
            self._all_thresholds = torch.cat([group.criterion.thresholds for group in self.groups]).to(device)
        return self._all_thresholds

    def _margins(self, queries: LayerQueries, index: int, rows: slice) -> Tensor:
        """Return the margins that decide for a group, [r N, H, Q]; those that no query changes are made once."""
        criterion, layer = self.groups[index].criterion, queries.call.layer
        if (index, layer) in self._fixed:
            return self._fixed[index, layer].expand(-1, -1, queries.query.shape[2])
        margin = deciding_margin(criterion, self._of_prompts(queries.query[rows]), self.view(queries, index, rows))
        if criterion.fixed:
            self._fixed[index, layer] = margin[:, :, :1]
        return margin

    def _count(self, queries: LayerQueries, long: Tensor, pairs: Tensor | None = None) -> None:
        if self.counts is None:
            return
        # Fewer keys than are outside the plain window are outliers, so that every row has a bulk, or none has.
        visible = queries.visible
        counted = ((visible.bulk_size > 0) & self.counting).expand(self.rows, -1)
        self.counts.add(queries.call.layer, long, counted, visible.position + 1, self._costs_of(queries.call), pairs)

    def _costs_of(self, call: LayerCall) -> Tensor:
        """Return the bytes that a decision of each row reads beside the plain window, over all KV heads, [R N]."""
        if call.layer not in self._row_costs:
            costs = [self._decision_bytes(call, g).repeat(g.count // self.prompt_count) for g in self.groups]
            self._row_costs[call.layer] = torch.cat(costs)
        return self._row_costs[call.layer]

    def _decision_bytes(self, call: LayerCall, group: Rows) -> Tensor:
        """Return the bytes that a decision of a group's row reads beside the plain window, over all KV heads, [N]."""
        head_dim = call.key.shape[3]
        numbers = group.criterion.summary_numbers(head_dim)
        key = call.layer, group.outliers, numbers
        if key not in self._costs:
            outliers = self._state(call, group.outliers).present.sum(1)
            by_head = decision_bytes(outliers, group.outliers.bits, numbers, head_dim)
            self._costs[key] = by_head.view(self.prompt_count, -1).sum(1)
        return self._costs[key]

    def view(self, queries: LayerQueries, index: int, rows: slice) -> LayerView:
        """Return what the criterion of a group may look at."""
        call, outliers = queries.call, self.groups[index].outliers
        state = self._state(call, outliers)
        windowed = Part(*(x[rows] for x in queries.window_by_row))
        if outliers.count:
            windowed = Part(*map(by_row, self._windowed(queries, rows, outliers)))
        bulk = cache(partial(self._bulk, queries, rows, outliers))
        return LayerView(
            call.layer,
            call.scale,
            call.key.shape[1] // self.prompt_count,
            self._of_prompts(windowed.mass),
            self._of_prompts(windowed.output),
            self._outside(queries, rows),
            self._streams[index].get(call.layer, state.summaries),
            exact_mass=lambda: self._of_prompts(bulk().mass),
            exact_output=lambda: self._of_prompts(bulk().output),
        )

    def _of_prompts(self, x: Tensor) -> Tensor:
        """Bring rows of all prompts' heads, [r, N H, ...], to rows of each prompt, [r N, H, ...]."""
        return x.reshape(self.prompt_count * len(x), -1, *x.shape[2:])

    def _outside(self, queries: LayerQueries, rows: slice) -> Tensor:
        """Return how many keys are outside the plain window of some rows' queries, [Q]."""
        return queries.visible.bulk_size

    def _windowed(self, queries: LayerQueries, rows: slice, outliers: OutlierRule) -> Part:
        """Attend of some rows to their windows, [K, r, G, Q]; one product serves all rows with the same outliers."""
        if outliers not in queries.windowed:
            # From the first to the last of them; groups in between, if any, cost time alone.
            spans = [span for group, span in self._spans() if group.outliers == outliers] or [rows]
            sharing, state = slice(spans[0].start, spans[-1].stop), self._state(queries.call, outliers)
            hidden = hiding(state.present, state.keys.dtype)[:, None, None]
            windowed = queries.with_outliers(sharing, state.keys, state.values, hidden)
            queries.windowed[outliers] = sharing.start, windowed
        first, windowed = queries.windowed[outliers]
        return Part(*(x[:, rows.start - first : rows.stop - first] for x in windowed))

    def _bulk(self, queries: LayerQueries, rows: slice, outliers: OutlierRule) -> Part:
        """Attend of some rows to the bulk without outliers, [r, H, Q]; without a key mass -inf, output 0."""
        taken = self._at_boundary(queries.call, outliers).taken if outliers.count else None
        part = queries.bulk(rows, taken)
        if part is None:
            part = Part(*(torch.full_like(x[:, rows], -torch.inf) for x in queries.window))
        empty = part.mass < NEVER / 2
        mass, output = part.mass.masked_fill(empty, -torch.inf), part.output.masked_fill(empty[..., None], 0)
        return Part(by_row(mass), by_row(output))

    def _at_boundary(self, call: LayerCall, outliers: OutlierRule) -> AtBoundary:
        """Return a layer's outliers and summaries, made once for all rows with the same outliers."""
        if outliers not in self._boundary:
            estimators = [group.criterion.estimator for group in self.groups if group.outliers == outliers]
            self._boundary[outliers] = at_boundary(
                (cache for cache in self.prefix.values() if cache.sliding is None),
                self.window.summarised(self.length),
                outliers,
                [estimator for estimator in estimators if estimator is not None],
                call.query.shape[1] // call.key.shape[1],
            )
        return self._boundary[outliers][call.layer]

    def _state(self, call: LayerCall, outliers: OutlierRule) -> BoundaryState:
        return self._at_boundary(call, outliers).state

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
