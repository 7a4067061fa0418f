"""Rows whose KV heads read some keys of their bulk: a selector's, as many as the row's budget pays.

Keys that have left the window since the boundary are in no index; a KV head that reads any key reads those too.

Shapes: r rows of one group, H query heads, K KV heads, G = H // K, Q queries, P prefix keys, D head_dim.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.reading import Reading, pair_bytes
from headscope.heads.selectors import Selector
from headscope.heads.window import Window
from headscope.lab.parts import Part
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows


class Selection(NamedTuple):
    """What some rows read of their bulks in one layer.

    Attributes:
        output: of the rows' queries, [K, r, G, Q, D].
        pairs: keys and values read, and the index in their unit, of all KV heads, float64 [r, Q].
    """

    output: Tensor
    pairs: Tensor


class Reader(NamedTuple):
    """Rows of one group that are about to read, in one layer.

    Attributes:
        group: with a selector.
        rows: its rows among all.
        local: attention over their windows, [K, r, G, Q].
        long: their labels, bool [r, H, Q].
        taken: keys of the prefix that their windows hold as outliers, bool [K, P].
        bulk_size: keys of each query outside the plain window, [Q].
        decision_bytes: what a decision of each row reads of a KV head beside the plain window, [r].
    """

    group: Rows
    rows: slice
    local: Part
    long: Tensor
    taken: Tensor
    bulk_size: Tensor
    decision_bytes: Tensor


class Selectors:
    """Lets selectors choose, by indexes that are made once for each layer."""

    def __init__(self, window: Window, boundary: int):
        """Index keys between the sink and the window of the boundary's first query."""
        self._window, self._indexed = window, range(*window.summarised(boundary))
        self._indexes: dict[tuple[int, Selector], Any] = {}

    def index(self, selector: Selector, layer: int, prefix: Mapping[int, LayerCache]) -> None:
        """Index a layer, if it is not yet."""
        if (layer, selector) not in self._indexes:
            bulk = Bulk.between(prefix[layer], self._indexed.start, self._indexed.stop)
            self._indexes[layer, selector] = selector.index(bulk)

    def read(self, queries: LayerQueries, reader: Reader) -> Selection:
        """Let the KV heads with a long label read what the group's selector chooses."""
        selector, local = reader.group.selector, reader.local
        assert selector is not None and reader.group.budget is not None
        kv_heads, prefix, head_dim = queries.prefix.keys.shape
        pair, visible = pair_bytes(1, head_dim), queries.visible.position + 1
        index_pairs = selector.index_bytes(len(self._indexed), head_dim) / pair
        later = reader.bulk_size - len(self._indexed)
        fixed = reader.decision_bytes / pair + index_pairs
        most = budget_keys(reader.group.budget, visible, reader.bulk_size, self._window, fixed) - later
        grouped, index = queries.grouped[:, reader.rows], self._indexes[queries.call.layer, selector]
        chosen, rest = selector.choose(grouped, local.mass, index, most.clamp(min=0), queries.call.scale)
        read = queries.selected(reader.rows, self._in_prefix(chosen, prefix) & ~reader.taken[:, None, None])
        whole = local if read is None else local.joined(read)
        whole = whole if rest is None else whole.joined(Part(*rest))
        reads = Reading.of(reader.long, kv_heads).groups.transpose(0, 1)
        return Selection(
            torch.where(reads[:, :, None, :, None], whole.output, local.output),
            ((chosen.sum(-1) + later + index_pairs) * reads).sum(0, dtype=torch.float64),
        )

    def _in_prefix(self, chosen: Tensor, prefix: int) -> Tensor:
        """Mark chosen keys, of the indexed ones [..., N], and all behind these among those of the prefix, [..., P]."""
        shape, behind = chosen.shape[:-1], prefix - self._indexed.stop
        return torch.cat([chosen.new_zeros(*shape, self._indexed.start), chosen, chosen.new_ones(*shape, behind)], -1)


def merged(queries: LayerQueries, local: Part, long: Tensor, selected: Sequence[tuple[slice, Selection]]) -> Selection:
    """Put rows that read chosen keys beside those that read all of a bulk or nothing: what all rows read.

    Args:
        queries: of all rows.
        local: attention over the windows of all rows, [K, R, G, Q].
        long: labels of all rows, bool [R, H, Q].
        selected: what some rows read, by their rows.
    """
    groups, whole = Reading.of(long, len(queries.prefix.keys)).groups, long.clone()
    pairs = (groups * queries.visible.bulk_size).sum(1, dtype=torch.float64)
    for rows, selection in selected:
        pairs[rows].copy_(selection.pairs)
        whole[rows].zero_()
    output = queries.whole(local, whole).clone()
    for rows, selection in selected:
        output[:, rows].copy_(selection.output)
    return Selection(output, pairs)


def budget_keys(share: Tensor, keys: Tensor, bulk_size: Tensor, window: Window, fixed_pairs: Tensor) -> Tensor:
    """Return how many bulk keys of each KV head a budget pays, float64 [r, Q].

    Args:
        share: of the KV bytes that each row may read, [r].
        keys: visible keys of each query, [Q].
        bulk_size: those outside the plain window, [Q].
        window: the plain window.
        fixed_pairs: what a KV head reads beside the window whatever is chosen, in pairs of a key and a value, [r].
    """
    paid = share.double()[:, None] * keys - (window.sink + window.recent) - fixed_pairs.double()[:, None]
    return torch.minimum(paid.clamp(min=0), bulk_size.double())
