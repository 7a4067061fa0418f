"""Rows of several prompts in one forward: each attends to its prompt's prefix and to its own keys.

The model's weights are read once for all of them. Prompts have questions of different lengths: the rows of shorter ones
have unused keys in front in the cache that all rows share.

Shapes: R rows, K KV heads, S own keys, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from headscope.lab.own_cache import one_cache
from headscope.lab.shared_prefix import SharedPrefix
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
        self.prompts = list(prompts)
        self.next = [prompt.length + own.get_seq_length() for prompt, own in zip(prompts, caches, strict=True)]
        self.cache, self._unused = one_cache(caches, torch.cat)

    def positions(self) -> Tensor:
        """Return where each row's next token stands, [R]."""
        return torch.cat([torch.full((prompt.rows,), at) for prompt, at in zip(self.prompts, self.next, strict=True)])

    def advance(self) -> None:
        """Go on to the next token."""
        self.next = [at + 1 for at in self.next]

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

    def attend(self, call: LayerCall) -> Tensor:
        """Compute attention of every row, [R, H, 1, D]."""
        first, outputs = 0, []
        for prompt, unused in zip(self.prompts, self._unused, strict=True):
            rows = slice(first, first + prompt.rows)
            key, value = call.key[rows, :, unused:], call.value[rows, :, unused:]
            outputs.append(prompt.attend(replace(call, query=call.query[rows], key=key, value=value)))
            first = rows.stop
        return torch.cat(outputs)
