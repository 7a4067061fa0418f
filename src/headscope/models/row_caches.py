"""Caches of several prompts side by side: each is read alone, then all decode together, a token of each at a time.

A row's keys lie at its own positions, so that no prompt is padded: what a query sees follows from its position. Sliding
layers keep all keys too; one rule serves every layer.

Shapes: B rows that still decode, H query heads, K KV heads, P tokens of a prompt, T room for keys, D head_dim, V tokens
of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from headscope.kernels.common.graph import Repeated
from headscope.models.attention import LayerCall, Layers, causal_attention

ALIGNED = 8
"""Keys of which there is room for a multiple: PyTorch would copy masks of other widths on a GPU."""


class RowCaches:
    """Keys and values of all rows; runs the model on them.

    On a GPU a step is a CUDA graph from the second one on, as long as the rows stay.
    """

    def __init__(self, model: PreTrainedModel, rows: int, room: int):
        """Make room for `room` keys of each row; the first prompt that is read allocates it."""
        self._model, self._rows, self._room = model, rows, -(-room // ALIGNED) * ALIGNED
        self._device = model.get_input_embeddings().weight.device
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values, [rows, K, T, D]
        self._longest = 0  # keys of the longest row
        one_device = all(weight.device == self._device for weight in model.parameters())
        self._repeated = Repeated(self._device, one_device)
        self._start(torch.zeros(rows, dtype=torch.long, device=self._device))

    def read(self, row: int, ids: Sequence[int]) -> Tensor:
        """Read a row's prompt; return the logits of what follows it, float32 [V]."""
        self._lengths[row], self._longest = len(ids), max(self._longest, len(ids))
        tokens = torch.tensor([ids], device=self._device)
        return self._logits(tokens, torch.arange(len(ids), device=self._device)[None], _Reading(self, row))[0]

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feed each row its next token; return the logits of what follows, float32 [B, V], until the next step."""
        self._tokens.copy_(torch.tensor(tokens))
        logits = self._repeated(self._step)
        self._longest += 1
        self._lengths += 1
        return logits

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with these rows alone; return their new order: rows from behind move into the gaps, others stay."""
        gaps = (row for row in range(len(rows)) if row not in rows)
        order = list(range(len(rows)))
        for row in sorted(row for row in rows if row >= len(rows)):
            order[gap := next(gaps)] = row
            for tensors in self._layers.values():
                for tensor in tensors:
                    tensor[gap] = tensor[row]
        self._start(self._lengths[torch.tensor(order, dtype=torch.long, device=self._device)])
        return order

    def _start(self, lengths: Tensor) -> None:
        """Begin with other rows, with this many keys each, [B]."""
        self._lengths, self._tokens = lengths, torch.zeros_like(lengths)
        self._repeated.restart()

    def _step(self) -> Tensor:
        """Feed the tokens; all that it reads and writes stays where it is, so that a graph can do it again."""
        seen = self._room if self._repeated.graphed else self._longest + 1
        visible = torch.arange(seen, device=self._device) <= self._lengths[:, None]
        decoding = _Decoding(self, self._lengths, visible)
        return self._logits(self._tokens[:, None], self._lengths[:, None], decoding)

    def layer(self, call: LayerCall) -> tuple[Tensor, Tensor]:
        """Return all rows' keys and values of the layer that calls."""
        if call.layer not in self._layers:
            shape = self._rows, call.key.shape[1], self._room
            # Zeros and no memory as it was: a hidden value counts nothing only while it is a number.
            keys, values = (x.new_zeros(*shape, x.shape[3]) for x in (call.key, call.value))
            self._layers[call.layer] = keys, values
        return self._layers[call.layer]

    def _logits(self, ids: Tensor, positions: Tensor, layers: Layers) -> Tensor:
        output = self._model(ids, position_ids=positions, use_cache=False, logits_to_keep=1, headscope=layers)
        # As generate() does: float32 before the argmax, so that half-precision ties break alike.
        logits: Tensor = output.logits[:, -1].float()
        return logits


@dataclass(frozen=True)
class _Reading:
    """Reads one row's prompt as the model does, and keeps its keys and values."""

    caches: RowCaches
    row: int

    def attend(self, call: LayerCall) -> Tensor:
        """Attend over the prompt, [1, H, P, D]."""
        for cache, new in zip(self.caches.layer(call), (call.key, call.value), strict=True):
            cache[self.row, :, : new.shape[2]] = new[0]
        return causal_attention(call)


@dataclass(frozen=True)
class _Decoding:
    """Lets the next token of each row attend over the row's keys.

    Attributes:
        caches: of all rows.
        position: of the tokens, [B].
        visible: keys up to each row's token, bool [B, T].
    """

    caches: RowCaches
    position: Tensor
    visible: Tensor

    def attend(self, call: LayerCall) -> Tensor:
        """Attend from one token of each row, [B, H, 1, D]; the heads of a KV group go as its queries."""
        device = call.key.device  # layers may be on several
        position, visible = self.position.to(device), self.visible.to(device)
        rows, seen = torch.arange(len(position), device=device), visible.shape[1]
        for cache, new in zip(self.caches.layer(call), (call.key, call.value), strict=True):
            cache[rows, :, position] = new[:, :, 0]
        if call.sliding is not None:
            visible = visible & (torch.arange(seen, device=device) > position[:, None] - call.sliding)
        keys, values = (cache[: len(rows), :, :seen] for cache in self.caches.layer(call))
        grouped = call.query.reshape(len(rows), keys.shape[1], -1, call.query.shape[3])
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=visible[:, None, None], scale=call.scale)
        return output.reshape(call.query.shape)
