"""Prompts whose rows decode side by side as if they were one prompt: their heads are more heads of it.

A step then has as many kernels for all prompts as for one. Row r of prompt n is row r N + n of the model's batch, so
that [R N, H] is [R, N H] too, without a copy. Shorter prompts have unused keys behind theirs, shorter questions in
front; what is not a prompt's own is hidden from its heads.

Shapes: N prompts, R rows of each, H query heads, K KV heads, S own keys, D head_dim.
"""

from collections.abc import Sequence
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
from headscope.lab.shared_prefix import SharedPrefix
from headscope.lab.visible import Visible
from headscope.lab.visible_as_one import VisibleAsOne
from headscope.models.attention import LayerCall


class AsOne(SharedPrefix):
    """Prompts with the same criteria, whose summaries do not stream; next comes one token of each row.

    Attributes:
        readings: counts of each prompt.
        cache: keys and values of all rows behind their prefixes, [R N, K, S, D].
    """

    def __init__(self, prompts: Sequence[SharedPrefix], caches: Sequence[DynamicCache]):
        """Take over prompts whose questions were read, each with a cache of its own; their keys move here."""
        first, lengths = prompts[0], [cache.get_seq_length() for cache in caches]
        super().__init__(first.prefix, [group.for_prompts(len(prompts)) for group in first.groups], first.window)
        self.prompts, self._lengths = len(prompts), [prompt.length for prompt in prompts]
        self.readings = [prompt.counts for prompt in prompts if isinstance(prompt.counts, ReadingCounts)]
        self._first = [length + own for length, own in zip(self._lengths, lengths, strict=True)]
        self._unused = [max(lengths) - length for length in lengths]
        self.cache = one_cache(caches, self._unused, lambda tensors: torch.stack(tensors, 1).flatten(0, 1))
        for key in list(first._layers):
            self._layers[key] = joined([prompt._layers.pop(key) for prompt in prompts])
        heads = self.readings[0].sizes.heads
        for rule, layers in first._boundary.items():
            states = {layer: [prompt._boundary[rule][layer] for prompt in prompts] for layer in layers}
            self._boundary[rule] = {layer: joined_prompts(each, heads) for layer, each in states.items()}
        for prompt in (*prompts, self):
            prompt.prefix = {}

    def positions(self) -> Tensor:
        """Return where each row's next token stands, [R N]."""
        return torch.tensor(self._first).repeat(self.rows)

    def look(self, positions: Tensor, most: int) -> None:
        """Let the next queries stand at some positions, [R N], at most so many behind the first."""

        def see(window: Window, dtype: torch.dtype, heads: int, kv_heads: int) -> VisibleAsOne:
            each = [
                Visible(window, length, positions[number : number + 1], (first, first + most - 1), dtype)
                for number, (length, first) in enumerate(zip(self._lengths, self._first, strict=True))
            ]
            return VisibleAsOne(each, self._unused, self.rows, heads, kv_heads)

        self._see = cache(see)  # once for all layers of a kind

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, [R N, H, 1, D]; the call has room for the answers, [R N, K, S, D]."""
        heads, kv_heads = call.query.shape[1], call.key.shape[1]
        query, key, value = (
            x.reshape(self.rows, -1, *x.shape[2:]) for x in (precise(call.query), call.key, call.value)
        )
        visible = self._see(self._window_of(call), query.dtype, heads, kv_heads)
        one = replace(call, query=query, key=key, value=value)
        output = self._attend(LayerQueries(one, self._prefix_of(one), query, visible))
        return output.reshape(call.query.shape).to(call.query.dtype)

    def _count(self, queries: LayerQueries, long: Tensor) -> None:
        """Count labels, bool [R, N H, 1], row by row and prompt by prompt."""
        if self.counts is None:
            return
        visible = queries.visible
        by_prompt = long.reshape(self.rows * self.prompts, -1, 1)
        with_bulk = visible.bulk_size.view(self.prompts, -1)[:, :1] > 0
        counted, keys = (x.repeat(self.rows, 1) for x in (with_bulk, visible.position[:, None] + 1))
        self.counts.add(queries.call.layer, by_prompt, counted, keys, self._costs_of(queries.call))
