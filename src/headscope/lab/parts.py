"""Attention over parts of the keys, and over both of two parts: each tells its log mass beside its output.

Shapes: B independent sets of keys, N queries of each, Q positions among them (N is a multiple, positions vary fastest),
R rows, K KV heads, C keys, D head_dim.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.kernels.common import device

NEVER = -1e30
"""Added to the score of a key that a query does not see; finite, so that queries that see no key give no NaN."""
OUTPUTS = 16
"""Vectors of a query that are held at once where scores are not: outputs over parts of the keys, and their sums."""


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

    def by_head(self, kv_heads: int) -> "Part":
        """Bring the queries of each row and KV head, [R K, N], to those of each KV head, [K, R N]."""
        return Part(*(x.reshape(-1, kv_heads, *x.shape[1:]).transpose(0, 1).flatten(1, 2) for x in self))


def hiding(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores so that no query sees any but the visible keys."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, NEVER)


class Piece(NamedTuple):
    """Keys of a kind, at least one, and the queries that attend to them.

    Attributes:
        query: float32 or float64, as keys and values are, [B, N, D].
        keys: rotated, [B, C, D].
        values: theirs.
        hidden: what `hiding` made, [1 or B, 1, 1 or Q, C]; None: every query sees every key.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    hidden: Tensor | None = None


def attend(pieces: Sequence[Piece], scale: float, kv_heads: int) -> Part:
    """Attend to the keys of all pieces, [K, N].

    Args:
        pieces: of the same queries. Those of keys that rows share have B = K and all N queries; those of each row's own
            keys have B = R K, rows before KV heads, and N / R queries.
        scale: factor of the scores.
        kv_heads: K.
    """
    if _by_kernel(pieces[0].query):
        from headscope.kernels.parts.attend import attend as split  # Triton is no part of a CPU build of torch

        return Part(*split(pieces, kv_heads, scale))
    step = _fused if pieces[0].query.device.type == "cpu" else _plain
    return reduce(Part.joined, (step(*piece, scale).by_head(kv_heads) for piece in pieces))


def numbers_at_once(query: Tensor, keys: int) -> int:
    """Return how many numbers of each position of queries [R, H, Q, D] attention to so many keys holds at once."""
    return query.shape[0] * query.shape[1] * (OUTPUTS * query.shape[3] if _by_kernel(query) else keys)


def _by_kernel(query: Tensor) -> bool:
    """Return True if the kernel serves these queries, or in half precision those that are made of them."""
    return query.is_cuda and query.dtype != torch.float64 and device.installed()


def _fused(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float) -> Part:
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


def _plain(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None, scale: float) -> Part:
    """Attend with all scores at once."""
    scores = (query @ keys.transpose(1, 2)).mul_(scale)
    if hidden is not None:
        scores.view(len(scores), -1, *hidden.shape[2:]).add_(hidden)
    weights = scores.softmax(-1)
    # The largest weight is 1 / sum(exp(score - largest score)).
    return Part(scores.amax(-1) - weights.amax(-1).log(), weights @ values)
