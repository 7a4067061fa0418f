"""Prompts whose rows decode side by side as if they were one prompt: their heads are more heads of it.

A step then has as many kernels for all prompts as for one. Row r of prompt n is row r N + n of the model's batch, so
that [R N, H] is [R, N H] too, without a copy: attention sees the second, criteria the first. Shorter prompts have
unused keys behind theirs, shorter questions in front; what is not a prompt's own is hidden from its heads.

Shapes: N prompts, R rows of each (r of some group), H query heads, K KV heads, S own keys, D head_dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from transformers import DynamicCache

from headscope.heads.mass import precise
from headscope.heads.to_device import joined
from headscope.heads.window import Window
from headscope.lab.at_boundary import joined_prompts
from headscope.lab.counts import ReadingCounts
from headscope.lab.own_cache import one_cache
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.lab.visible import Visible
from headscope.lab.visible_as_one import VisibleAsOne
from headscope.models.attention import LayerCall


def may_join(groups: Sequence[Rows]) -> bool:
    """Return True if prompts with these rows may be taken as one.

    All their estimators say `joinable = True`, and no selector chooses: its index would have keys of no prompt.
    """
    estimators = [group.criterion.estimator for group in groups if group.criterion.estimator is not None]
    joinable = all(getattr(estimator, "joinable", False) for estimator in estimators)
    return joinable and all(group.selector is None for group in groups)


class AsOne(SharedPrefix):
    """Prompts with the same criteria, whose summaries do not stream; next comes one token of each row.

    Attributes:
        readings: counts of each prompt.
        cache: keys and values of all rows behind their prefixes, [R N, K, S, D].
    """

    def __init__(self, prompts: Sequence[SharedPrefix], caches: Sequence[DynamicCache]):
        """Take over prompts whose questions were read, each with a cache of its own; their keys move here."""
        first, count = prompts[0], len(prompts)
        each = [torch.arange(group.count).repeat_interleave(count) for group in first.groups]
        groups = [group.take(rows) for group, rows in zip(first.groups, each, strict=True)]
        super().__init__(first.prefix, groups, first.window)
        self.prompt_count, self.rows = count, first.rows
        self.readings = [prompt.counts for prompt in prompts if isinstance(prompt.counts, ReadingCounts)]
        self._lengths = [prompt.length for prompt in prompts]
        self._next = [prompt.length + own.get_seq_length() for prompt, own in zip(prompts, caches, strict=True)]
        self._selectors = first._selectors
        self.cache, self._unused = one_cache(caches, lambda tensors: torch.stack(tensors, 1).flatten(0, 1))
        for prompt in (*prompts, self):
            prompt.prefix = {}
        for key in list(first._layers):
            self._layers[key] = joined([prompt._layers.pop(key) for prompt in prompts])
        for rule in list(first._boundary):
            states, heads = [prompt._boundary.pop(rule) for prompt in prompts], self.readings[0].sizes.heads
            self._boundary[rule] = {i: joined_prompts([state[i] for state in states], heads) for i in states[0]}

    def positions(self) -> Tensor:
        """Return where each row's next token stands, [R N]."""
        return torch.tensor(self._next).repeat(self.rows)

    def look(self, positions: Tensor, most: int) -> None:
        """Let the next queries stand at some positions, [R N], at most so many behind the first."""
        unused, rows = self._unused, self.rows
        places = list(zip(self._lengths, torch.split(positions[: self.prompt_count], 1), self._next, strict=True))

        def see(window: Window, dtype: torch.dtype, kv_heads: int) -> VisibleAsOne:
            each = [Visible(window, length, at, (first, first + most - 1), dtype) for length, at, first in places]
            return VisibleAsOne(each, unused, rows, kv_heads)

        self._see = cache(see)  # once for all layers of a kind

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, [R N, H, 1, D]; the call has room for the answers, [R N, K, S, D]."""
        tensors = precise(call.query), call.key, call.value
        query, key, value = (x.reshape(self.rows, -1, *x.shape[2:]) for x in tensors)
        visible = self._see(self._window_of(call), query.dtype, call.key.shape[1])
        one = replace(call, query=query, key=key, value=value)
        output = self._attend(LayerQueries(one, self._prefix_of(one), query, visible))
        return output.reshape(call.query.shape).to(call.query.dtype)

    def _spans(self) -> Iterator[tuple[Rows, slice]]:
        """Yield each group with its rows of all prompts' heads, of R."""
        for group, rows in super()._spans():
            yield group, slice(rows.start // self.prompt_count, rows.stop // self.prompt_count)

    def _outside(self, queries: LayerQueries, rows: slice) -> Tensor:
        """Return how many keys are outside the plain window of some rows' queries, [1], or [r N, 1, 1]."""
        visible = queries.visible
        if isinstance(visible, VisibleAsOne) and self.prompt_count == 1:
            return visible.each[0].bulk_size
        return visible.bulk_size[rows.start * self.prompt_count : rows.stop * self.prompt_count]

    def _count(self, queries: LayerQueries, long: Tensor, pairs: Tensor | None = None) -> None:
        """Count labels, bool [R N, H, 1], and what is read of bulks, [R N, 1]."""
        if self.counts is not None:
            counted, keys = queries.visible.bulk_size[:, 0] > 0, queries.visible.position[:, None] + 1
            costs = self._costs_of(queries.call)
            self.counts.add(queries.call.layer, long, counted, keys.repeat(self.rows, 1), costs, pairs)
