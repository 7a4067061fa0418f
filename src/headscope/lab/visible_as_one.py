"""Which keys the next token of each of several prompts sees, whose KV heads lie one after the other.

What one prompt sees and another does not is hidden from the other's heads.

Shapes: N prompts, R rows and K KV heads of each, C keys of a span. Rows vary slowest, then prompts, then heads.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from headscope.lab.parts import NEVER
from headscope.lab.visible import Span, Visible


class VisibleAsOne:
    """Takes the place of `Visible` for one query of each prompt.

    Attributes:
        each: what each prompt's query sees.
    """

    def __init__(self, each: Sequence[Visible], unused: Sequence[int], rows: int, kv_heads: int):
        """Join what prompts see.

        Args:
            each: of each prompt; positions [1].
            unused: keys in front of each prompt's own that no row sees.
            rows: R.
            kv_heads: K.
        """
        self.each, self._unused, self._rows, self._kv_heads = each, unused, rows, kv_heads

    @cached_property
    def position(self) -> Tensor:
        """Positions of the queries, [N]."""
        return torch.cat([visible.position for visible in self.each])

    @cached_property
    def bulk_size(self) -> Tensor:
        """Bulk keys of each row's query, [R N, 1, 1]."""
        return torch.cat([visible.bulk_size for visible in self.each]).repeat(self._rows)[:, None, None]

    @cached_property
    def near(self) -> Tensor:
        """What hides the keys of `PrefixLayer.near`, [N K, 1, 1, C]."""
        counts = [sum(map(len, visible.window.columns(visible.prefix, visible.prefix))) for visible in self.each]
        spans = [[Span(slice(0, n), visible.near)] for n, visible in zip(counts, self.each, strict=True)]
        return self._one(spans, 0, max(counts))

    @cached_property
    def own(self) -> Span:
        """Own keys inside the window."""
        return self._own([visible.own for visible in self.each])

    @cached_property
    def own_bulk(self) -> Span | None:
        """Own keys outside the window."""
        spans = [visible.own_bulk for visible in self.each]
        return self._own(spans) if any(span is not None for span in spans) else None

    @cached_property
    def bulk(self) -> Sequence[Span]:
        """Prefix keys outside the window: those that every prompt has and sees, and the others."""
        spans, sink = [visible.bulk for visible in self.each], self.each[0].window.sink
        last = max((span.keys.stop for of_prompt in spans for span in of_prompt), default=sink)
        shared = min(part[0].keys.stop if part and part[0].hidden is None else sink for part in spans)
        found = [Span(slice(sink, shared), None)] if sink < shared else []
        return [*found, Span(slice(shared, last), self._one(spans, shared, last))] if shared < last else found

    def _own(self, spans: Sequence[Span | None]) -> Span:
        """Bring spans of each prompt's own keys to one, with what is hidden from each row, prompt and KV head."""
        moved = [
            [] if span is None else [Span(slice(span.keys.start + unused, span.keys.stop + unused), span.hidden)]
            for span, unused in zip(spans, self._unused, strict=True)
        ]
        ends = [(span.keys.start, span.keys.stop) for of_prompt in moved for span in of_prompt]
        first, last = min(start for start, _ in ends), max(stop for _, stop in ends)
        return Span(slice(first, last), self._one(moved, first, last).repeat(self._rows, 1, 1, 1))

    def _one(self, spans: Sequence[Sequence[Span]], first: int, last: int) -> Tensor:
        """Hide of the keys first <= j < last from each prompt those outside its spans, [N K, 1, 1, C]."""
        dtype, device = self.each[0].dtype, self.position.device
        hidden = torch.full((len(spans), 1, 1, last - first), NEVER, dtype=dtype, device=device)
        for of_prompt, from_prompt in zip(spans, hidden, strict=True):
            for keys, within in of_prompt:
                start = max(first, keys.start)
                if start < keys.stop:
                    seen = from_prompt[..., start - first : keys.stop - first]
                    seen.zero_() if within is None else seen.copy_(within[0, ..., start - keys.start :])
        return hidden.repeat_interleave(self._kv_heads, 0)
