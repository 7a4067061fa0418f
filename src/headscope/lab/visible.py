"""Which keys some queries see, in every layer: those inside the window and those outside, of the prefix and their own.

Shapes: Q queries, P prefix keys, S own keys, C keys of a span, D head_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.heads.bulk import LayerCache
from headscope.heads.mass import precise
from headscope.heads.window import Window
from headscope.lab.parts import hiding

Rule = Callable[[Tensor, Tensor], Tensor]
"""Marks the keys of a kind that queries see, bool [Q, C], by positions [Q] and [C]."""


class Span(NamedTuple):
    """Keys of which each query sees some.

    Attributes:
        keys: where they lie in the prefix, or among a row's own keys.
        hidden: what is added to the scores, [1, 1, Q, C]; None: all queries see all of them.
    """

    keys: slice
    hidden: Tensor | None


@dataclass(frozen=True)
class PrefixLayer:
    """One layer's keys and values that all rows share, float32 or better, with those of the window side by side.

    Attributes:
        keys: [K, P, D].
        values: [K, P, D].
        near: keys and values that the window of any query behind the prefix holds, [K, C, D] each.
    """

    keys: Tensor
    values: Tensor
    near: tuple[Tensor, ...]

    @classmethod
    def of(cls, cache: LayerCache, window: Window) -> "PrefixLayer":
        """Lay the keys of the window side by side."""
        keys, values = precise(cache.keys), precise(cache.values)
        spans = window.columns(keys.shape[1], keys.shape[1])
        near = (torch.cat([x[:, span.start : span.stop] for span in spans], 1) for x in (keys, values))
        return cls(keys, values, tuple(near))


@dataclass(frozen=True)
class Visible:
    """Keys that queries behind a prefix see.

    Attributes:
        window: the plain window.
        prefix: P.
        position: of the queries, ascending, [Q].
        ends: the first and the last of the positions.
        dtype: of the scores.
    """

    window: Window
    prefix: int
    position: Tensor
    ends: tuple[int, int]
    dtype: torch.dtype

    @cached_property
    def bulk_size(self) -> Tensor:
        """Bulk keys of each query, [Q]."""
        return self.window.bulk_size(self.position)

    @cached_property
    def near(self) -> Tensor | None:
        """What hides the keys of `PrefixLayer.near` from the queries whose windows they left, [1, 1, Q, C]."""
        spans = self.window.columns(self.prefix, self.prefix)
        if self.ends[1] < spans[1].start + self.window.recent:
            return None
        return torch.cat([self._hidden(self.window.local, span.start, span.stop) for span in spans], -1)

    @cached_property
    def own(self) -> Span:
        """Own keys inside the window."""
        (first, last), sinks_end = self.ends, self.prefix >= self.window.sink
        keys = slice(max(0, first + 1 - self.window.recent - self.prefix) if sinks_end else 0, last + 1 - self.prefix)
        return self._own(keys, self.window.local, sinks_end and first == last)

    @cached_property
    def bulk(self) -> Sequence[Span]:
        """Prefix keys outside the window: those of all queries, and those of the later ones alone."""
        first, last = (min(self.prefix, end + 1 - self.window.recent) for end in self.ends)
        shared, later = slice(self.window.sink, first), slice(max(self.window.sink, first), last)
        hidden = self._hidden(self.window.bulk, later.start, last) if later.start < last else None
        return [span for span in (Span(shared, None), Span(later, hidden)) if span.keys.start < span.keys.stop]

    @cached_property
    def own_bulk(self) -> Span | None:
        """Own keys outside the window."""
        first, last = self.ends
        keys = slice(max(0, self.window.sink - self.prefix), last + 1 - self.window.recent - self.prefix)
        return self._own(keys, self.window.bulk, first == last) if keys.start < keys.stop else None

    def _own(self, keys: slice, rule: Rule, all_seen: bool) -> Span:
        return Span(keys, None if all_seen else self._hidden(rule, self.prefix + keys.start, self.prefix + keys.stop))

    def _hidden(self, rule: Rule, first: int, last: int) -> Tensor:
        """Hide of the keys first <= j < last those that a rule does not give to a query, [1, 1, Q, C]."""
        keys = torch.arange(first, last, device=self.position.device)
        return hiding(rule(self.position, keys), self.dtype)[None, None]
