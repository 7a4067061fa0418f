"""Some queries of every row in one layer, and their attention inside and outside the window, each when it is needed.

Keys of the prefix are read once for all rows: their products have the queries of all rows side by side.

Shapes: R rows (r of some group), K KV heads, H query heads, G = H // K, Q queries, P prefix keys, S own keys of a row,
N chosen pairs, D head_dim.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import OutlierRule
from headscope.kernels.common.branches import side_by_side
from headscope.lab.parts import Part, Piece, attend, hiding
from headscope.lab.visible import PrefixLayer, Span, Visible
from headscope.lab.visible_as_one import VisibleAsOne
from headscope.models.attention import LayerCall

ALL = slice(None)


@dataclass(frozen=True)
class LayerQueries:
    """Queries of one layer.

    Attributes:
        call: the attention call.
        prefix: keys and values that all rows share.
        query: the queries, float32 or better, [R, H, Q, D].
        visible: what they see.
        windowed: attention over windows with outliers, once computed, and its first row.
    """

    call: LayerCall
    prefix: PrefixLayer
    query: Tensor
    visible: Visible | VisibleAsOne
    windowed: dict[OutlierRule, tuple[int, Part]] = field(default_factory=dict)

    @cached_property
    def grouped(self) -> Tensor:
        """The queries, [K, R, G, Q, D]."""
        return group_heads(self.query, self.call.key.shape[1]).transpose(0, 1).contiguous()

    @cached_property
    def window(self) -> Part:
        """Attention over the plain window, [K, R, G, Q]."""
        (keys, values), own = self.prefix.near, self._of_own(self.visible.own, ALL)
        near = [self._of_prefix(keys, values, self.visible.near, ALL)] if keys.shape[1] else []
        return self._attend([*near, own])

    @cached_property
    def window_by_row(self) -> Part:
        """The same, [R, H, Q]."""
        return Part(*map(by_row, self.window))

    @cached_property
    def _all_bulk(self) -> Part | None:
        return self._bulk_of(ALL, None)

    def prepare(self) -> None:
        """Compute what all criteria need, on a GPU, before they decide side by side."""
        assert self.grouped is not None and self.visible.bulk_size is not None
        tasks: list[Callable[[], Any]] = [lambda: self.window_by_row]
        side_by_side(tasks if self._lazy else [*tasks, lambda: self._all_bulk])

    def bulk(self, rows: slice = ALL, taken: Tensor | None = None) -> Part | None:
        """Attend to all keys outside the plain window, [K, r, G, Q]; None where no query has any.

        Args:
            rows: whose queries.
            taken: bulk keys of the prefix that are left out, bool [K, P].
        """
        if taken is not None or self._lazy:
            return self._bulk_of(rows, taken)
        # A GPU has them for all rows in the time that launches take for some.
        return None if self._all_bulk is None else Part(*(x[:, rows] for x in self._all_bulk))

    def _bulk_of(self, rows: slice, taken: Tensor | None) -> Part | None:
        pieces = [self._of_span(span, rows, taken) for span in self.visible.bulk]
        if self.visible.own_bulk is not None:
            pieces.append(self._of_own(self.visible.own_bulk, rows))
        return self._attend(pieces) if pieces else None

    def selected(self, rows: slice, chosen: Tensor) -> Part | None:
        """Attend to chosen keys of the prefix and to own keys outside the plain window; None where there are none.

        Args:
            rows: whose queries.
            chosen: keys of the prefix that the rows' KV heads read, bool [K, r, Q, P]; those inside the plain window
                are left out.
        """
        pieces = []
        for span in self.visible.bulk:
            hidden = hiding(chosen[..., span.keys], self.query.dtype)
            if span.hidden is not None:
                hidden = torch.minimum(hidden, span.hidden)
            of_heads = hidden[:, :, None].expand(-1, -1, self.grouped.shape[2], -1, -1)
            pieces.append(self._of_prefix(*self._keys(span), of_heads.flatten(1, 3)[:, None], rows))
        if self.visible.own_bulk is not None:
            pieces.append(self._of_own(self.visible.own_bulk, rows))
        return self._attend(pieces) if pieces else None

    def with_outliers(self, rows: slice, keys: Tensor, values: Tensor, hidden: Tensor) -> Part:
        """Attend to the window and to outliers, [K, M, D] each, of which some may be hidden: [K, r, G, Q]."""
        plain = Part(*(x[:, rows] for x in self.window))
        return self._attend([self._of_prefix(keys, values, hidden, rows)]).joined(plain) if keys.shape[1] else plain

    def whole(self, local: Part, long: Tensor) -> Tensor:
        """Return the output of all pairs, [K, R, G, Q, D].

        Args:
            local: what a pair gives that sees its own window alone, [K, R, G, Q].
            long: pairs that see all keys, bool, as many as of [R, H, Q].
        """
        long = long.view(len(self.query), len(self.prefix.keys), -1, long.shape[2]).transpose(0, 1)
        if not self.visible.bulk and self.visible.own_bulk is None:
            return torch.where(long[..., None], self.window.output, local.output)
        if self._lazy:
            return self._chosen(local, long)
        bulk = self.bulk()
        assert bulk is not None
        return torch.where(long[..., None], self.window.joined(bulk).output, local.output)

    def at(self, chosen: Tensor) -> "LayerQueries":
        """Keep some of the queries, bool [Q]."""
        assert isinstance(self.visible, Visible)
        position = self.visible.position[chosen]
        first, last = position[[0, -1]].tolist()
        visible = replace(self.visible, position=position, ends=(first, last))
        return replace(self, query=self.query[:, :, chosen], visible=visible, windowed={})

    def _chosen(self, local: Part, long: Tensor) -> Tensor:
        """Compute `whole`, touching the bulk for the long pairs of each KV head alone."""
        output = local.output.clone(memory_format=torch.contiguous_format)
        own = None if self.visible.own_bulk is None else self._attend([self._of_own(self.visible.own_bulk, ALL)])
        for head in range(len(long)):
            pairs = long[head].flatten().nonzero()[:, 0]
            if not len(pairs):
                continue
            whole = _pairs(self.window, head, pairs)
            for part in self._of_pairs(head, pairs):
                whole = whole.joined(part)
            if own is not None:
                whole = whole.joined(_pairs(own, head, pairs))
            output[head].flatten(0, 2).index_copy_(0, pairs, whole.output)
        return output

    def _of_pairs(self, head: int, pairs: Tensor) -> Iterator[Part]:
        """Yield attention of a KV head's chosen pairs over each span of the prefix outside the window, [N]."""
        query, one = self.grouped[head].flatten(0, 2)[pairs], slice(head, head + 1)
        for keys, hidden in self.visible.bulk:
            if hidden is not None:
                hidden = hidden[:, :, pairs % hidden.shape[2]]
            piece = Piece(query[None], self.prefix.keys[one, keys], self.prefix.values[one, keys], hidden)
            yield attend([piece], self._scale, 1).viewed(len(pairs))

    def _of_span(self, span: Span, rows: slice, taken: Tensor | None) -> Piece:
        hidden = span.hidden
        if taken is not None:
            more = hiding(~taken[:, None, None, span.keys], self.prefix.keys.dtype)
            hidden = more if hidden is None else torch.minimum(hidden, more)
        return self._of_prefix(*self._keys(span), hidden, rows)

    def _keys(self, span: Span) -> tuple[Tensor, Tensor]:
        return self.prefix.keys[:, span.keys], self.prefix.values[:, span.keys]

    def _of_prefix(self, keys: Tensor, values: Tensor, hidden: Tensor | None, rows: slice) -> Piece:
        return Piece(self.grouped[:, rows].flatten(1, 3), keys, values, hidden)

    def _of_own(self, span: Span, rows: slice) -> Piece:
        """Let each row attend to some of its own keys."""
        query = group_heads(self.query[rows], len(self.prefix.keys)).flatten(0, 1).flatten(1, 2)
        keys, values = (precise(x[rows, :, span.keys]).flatten(0, 1) for x in (self.call.key, self.call.value))
        hidden = None if span.hidden is None else span.hidden[: len(keys)]  # the same of every row
        return Piece(query, keys, values, hidden)

    def _attend(self, pieces: Sequence[Piece]) -> Part:
        """Attend of each of some rows to the keys of all pieces, [K, r, G, Q]."""
        _, _, group, queries, _ = self.grouped.shape
        kv_heads = len(self.prefix.keys)
        return attend(pieces, self._scale, kv_heads).viewed(kv_heads, -1, group, queries)

    @property
    def _lazy(self) -> bool:
        """Whether only what is needed is computed, which takes finding out what that is."""
        return self.query.device.type == "cpu"

    @property
    def _scale(self) -> float:
        return self.call.scale


def _pairs(part: Part, head: int, pairs: Tensor) -> Part:
    """Choose pairs of one KV head, [N]."""
    return Part(part.mass[head].flatten()[pairs], part.output[head].flatten(0, 2)[pairs])


def by_row(x: Tensor) -> Tensor:
    """Bring [K, R, G, Q, ...] to [R, H, Q, ...]."""
    return x.transpose(0, 1).flatten(1, 2)
