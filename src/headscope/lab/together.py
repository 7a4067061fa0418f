"""Rows of several prompts in one forward: each attends to its prompt's prefix and to its own keys.

The model's weights are read once for all of them. Prompts have questions of different lengths: the rows of shorter ones
have unused keys in front in the cache that all rows share.

Shapes: R rows, K KV heads, S own keys, D head_dim.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from headscope.lab.own_cache import own_cache
from headscope.lab.shared_prefix import Seen, SharedPrefix
from headscope.models.attention import LayerCall


class Together:
    """Prompts whose rows decode side by side, one token of each at a time; handed to the model as forward keyword.

    Attributes:
        prompts: their prefixes and rows.
        next: where the next token of each prompt's rows stands.
        cache: keys and values of all rows behind their prefixes, [R, K, S, D].
    """

    def __init__(self, prompts: Sequence[SharedPrefix], caches: Sequence[DynamicCache]):
        """Join prompts whose questions were read, each with a cache of its own."""
        lengths = [cache.get_seq_length() for cache in caches]
        self.prompts, self._unused = list(prompts), [max(lengths) - length for length in lengths]
        self.next = [prompt.length + length for prompt, length in zip(prompts, lengths, strict=True)]
        self.cache = caches[0] if len(caches) == 1 else _joined(caches, self._unused)

    def prompts_of(self, rows: Sequence[int]) -> int:
        """Count the prompts of some rows (indices into the present ones)."""
        ends = [*accumulate(prompt.rows for prompt in self.prompts)]
        return len({bisect_right(ends, row) for row in rows})

    def positions(self) -> Tensor:
        """Return where each row's next token stands, [R]."""
        return torch.cat([torch.full((prompt.rows,), at) for prompt, at in zip(self.prompts, self.next, strict=True)])

    def advance(self, steps: int = 1) -> None:
        """Go on to the token that stands so many steps behind."""
        self.next = [at + steps for at in self.next]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (indices into the present ones) alone."""
        self.cache.batch_select_indices(rows.to(self.cache.layers[0].keys.device))
        first, staying = 0, []
        for prompt in self.prompts:
            inside = rows[(rows >= first) & (rows < first + prompt.rows)] - first
            first += prompt.rows
            staying.append(len(inside) > 0)
            if len(inside):
                prompt.keep(inside)
        for state in (self.prompts, self._unused, self.next):
            state[:] = [one for one, stays in zip(state, staying, strict=True) if stays]

    def attend(self, call: LayerCall, seen: Sequence[Seen] | None = None) -> Tensor:
        """Compute attention of every row, [R, H, 1, D]; `seen` tells for each prompt what its queries see."""
        first, outputs = 0, []
        for prompt, unused, of_prompt in zip(self.prompts, self._unused, seen or repeat(None), strict=False):
            rows = slice(first, first + prompt.rows)
            key, value = call.key[rows, :, unused:], call.value[rows, :, unused:]
            outputs.append(prompt.attend(replace(call, query=call.query[rows], key=key, value=value), of_prompt))
            first = rows.stop
        return torch.cat(outputs)


def _joined(caches: Sequence[DynamicCache], unused: Sequence[int]) -> DynamicCache:
    """Put the rows of all caches one after the other, with unused keys in front."""
    joined = own_cache()
    for layer, parts in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        for_all = (torch.cat([pad(x, (0, 0, n, 0)) for x, n in zip(xs, unused, strict=True)]) for xs in _pairs(parts))
        joined.update(*for_all, layer)
    return joined


def _pairs(parts: Sequence[Any]) -> Iterator[list[Tensor]]:
    """Yield the keys, then the values, of one layer of all caches."""
    yield [part.keys for part in parts]
    yield [part.values for part in parts]
