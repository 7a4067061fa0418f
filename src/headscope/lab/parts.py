"""Attention over parts of the keys, and over both of two parts: each tells its log mass beside its output.

Shapes: B independent sets of keys, N queries of each, Q positions among them (N is a multiple, positions vary fastest),
C keys, D head_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NEVER = -1e30
"""Added to the score of a key that a query does not see; finite, so that queries that see no key give no NaN."""


class Part(NamedTuple):
    """Attention over some of the keys.

    Attributes:
        mass: log mass, [...]; about `NEVER` for a query that sees none of them.
        output: their mean value under the query's attention, [..., D]; any numbers without a key.
    """

    mass: Tensor
    output: Tensor

    def joined(self, other: "Part") -> "Part":
        """Attend to the keys of both parts, which share none."""
        share = torch.sigmoid(other.mass - self.mass)
        return Part(torch.logaddexp(self.mass, other.mass), self.output.lerp(other.output, share[..., None]))

    def viewed(self, *shape: int) -> "Part":
        """Give the queries another shape."""
        return Part(self.mass.reshape(shape), self.output.reshape(*shape, self.output.shape[-1]))


def hiding(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores so that no query sees any but the visible keys."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, NEVER)


def attend(query: Tensor, keys: Tensor, values: Tensor, scale: float, hidden: Tensor | None = None) -> Part:
    """Attend to at least one key: queries [B, N, D], keys and values [B, C, D].

    Args:
        query: float32 or float64, as keys and values are.
        keys: rotated.
        values: theirs.
        scale: factor of the scores.
        hidden: what `hiding` made, [1 or B, 1, 1 or Q, C]; None: every query sees every key.
    """
    step = _fused if query.device.type == "cpu" else _plain
    return step(query, keys, values, scale, hidden)


def _fused(query: Tensor, keys: Tensor, values: Tensor, scale: float, hidden: Tensor | None) -> Part:
    """Attend by PyTorch's operation for CPUs, which holds few scores at once and gives masses too."""
    shape = query.shape[:2]
    if hidden is None or hidden.shape[2] == 1:
        query, keys, values = query[None], keys[None], values[None]
        hidden = None if hidden is None else hidden.transpose(0, 1)
    else:
        heads = query.shape[1] // hidden.shape[2]
        query = query.reshape(len(query), heads, -1, query.shape[2])
        keys, values = (x[:, None].expand(-1, heads, -1, -1) for x in (keys, values))
    output, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, False, attn_mask=hidden, scale=scale
    )
    return Part(mass, output).viewed(*shape)


def _plain(query: Tensor, keys: Tensor, values: Tensor, scale: float, hidden: Tensor | None) -> Part:
    """Attend with all scores at once."""
    scores = (query @ keys.transpose(1, 2)).mul_(scale)
    if hidden is not None:
        scores.view(len(scores), -1, *hidden.shape[2:]).add_(hidden)
    weights = scores.softmax(-1)
    # The largest weight is 1 / sum(exp(score - largest score)).
    return Part(scores.amax(-1) - weights.amax(-1).log(), weights @ values)
