"""Blocks of consecutive bulk keys: their means, and the keys of the few blocks that a query scores highest.

Grows with T: reads (T / L) D numbers of means and S L D of the top blocks' keys a query head (heads of a group may
choose different blocks), takes as many multiply-adds a query, and twice as many of both where values are asked for.

Shapes: B rows, H query heads, K KV heads, G = H // K, Q queries, N bulk keys, C blocks of L keys, S top blocks,
D head_dim.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.bulk import Bulk
from headscope.heads.mass import for_size, group_heads, precise, query_chunks


@dataclass(frozen=True)
class BlockSummary:
    """What is kept of a layer's bulk: all of it, in blocks; the last one may be short.

    Attributes:
        count: bulk keys.
        size: keys of each block, [C].
        keys: [K, C, L, D], zero beyond the last key.
        values: the same of the values.
        mean_key: [K, C, D].
        mean_value: [K, C, D].
    """

    count: int
    size: Tensor
    keys: Tensor
    values: Tensor
    mean_key: Tensor
    mean_value: Tensor

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, block: int) -> "BlockSummary":
        """Cut keys and values, [K, N, D], into blocks."""
        kv_heads, count, dim = keys.shape
        blocks = math.ceil(count / block)
        size = (count - torch.arange(blocks, device=keys.device) * block).clamp(max=block)
        shape = kv_heads, blocks, block, dim
        whole = [pad(x, (0, 0, 0, blocks * block - count)).reshape(shape) for x in (keys, values)]
        means = [x.sum(2) / size[:, None] for x in whole]
        return cls(count, size, *whole, *means)


@dataclass(frozen=True)
class Blocks:
    """Every key of a block has the score of its mean, but for the top blocks, which are exact.

    Attributes:
        name: how tables call it.
        block: keys of a block.
        top: blocks of the largest mean score that are scored key by key.
    """

    name: str
    block: int
    top: int

    def summarise(self, bulk: Bulk) -> BlockSummary:
        """Cut the bulk into blocks."""
        return BlockSummary.of(precise(bulk.keys), precise(bulk.values), self.block)

    def update(self, summary: BlockSummary, keys: Tensor, values: Tensor) -> BlockSummary:
        """Append keys and values, [K, N, D], as if they had been there at the boundary."""
        old = [whole.flatten(1, 2)[:, : summary.count] for whole in (summary.keys, summary.values)]
        joined = [torch.cat([x, new.to(x.dtype)], 1) for x, new in zip(old, (keys, values), strict=True)]
        return BlockSummary.of(joined[0], joined[1], self.block)

    def log_mass(self, query: Tensor, summary: BlockSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count is the true one, not that of the summary."""
        parts = [self._masses(part, summary, scale)[0].logsumexp(-1) for part in self._parts(query, summary)]
        return for_size(torch.cat(parts, -1).flatten(1, 2), summary.count, bulk_size)

    def value(self, query: Tensor, summary: BlockSummary, scale: float) -> Tensor:
        """Mean value by the blocks' means, and exactly for the top ones, [B, H, Q, D]."""
        found = []
        for part in self._parts(query, summary):
            masses, top = self._masses(part, summary, scale)
            weights, blocks = masses.softmax(-1), len(summary.size)
            exact = (weights[..., blocks:, None] * _chosen(summary.values, top)).sum(-2)
            found.append(torch.einsum("bkgqc,kcd->bkgqd", weights[..., :blocks], summary.mean_value) + exact)
        return torch.cat(found, -2).flatten(1, 2)

    def _parts(self, query: Tensor, summary: BlockSummary) -> list[Tensor]:
        """Queries in chunks [B, K, G, q, D], since each reads blocks of its own."""
        grouped = group_heads(precise(query), summary.keys.shape[0]).to(summary.keys.dtype)
        read = query[:, :, 0].numel() * self.block * min(self.top, len(summary.size))
        return [grouped[..., part, :] for part in query_chunks(query.shape[2], read, query.device)]

    def _masses(self, grouped: Tensor, summary: BlockSummary, scale: float) -> tuple[Tensor, Tensor]:
        """Log masses of the blocks and of the top ones' keys, [B, K, G, q, C + S L]; the top ones, [B, K, G, q, S].

        A top one's own mass is -inf: its keys stand for it.
        """
        scores = torch.einsum("bkgqd,kcd->bkgqc", grouped, summary.mean_key) * scale
        top = scores.topk(min(self.top, len(summary.size)), -1).indices
        exact = (_chosen(summary.keys, top) @ grouped[..., None])[..., 0] * scale
        there = torch.arange(self.block, device=top.device) < summary.size[top][..., None]
        others = (scores + summary.size.log()).scatter(-1, top, -torch.inf)
        return torch.cat([others, exact.masked_fill(~there.flatten(-2), -torch.inf)], -1), top


def _chosen(whole: Tensor, top: Tensor) -> Tensor:
    """Keys or values [K, C, L, D] of blocks [B, K, G, q, S]: [B, K, G, q, S L, D]."""
    head = torch.arange(whole.shape[0], device=whole.device)[:, None, None, None]
    return whole[head, top].flatten(-3, -2)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Blocks:
    """Make the estimator."""
    return Blocks(spec["name"], spec["block"], spec["top"])


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head that a query reads: the blocks' means and the keys of the top ones, and so of the values."""
    block, top = int(spec["block"]), int(spec["top"])
    blocks = math.ceil(keys / block)
    return (blocks + min(top, blocks) * block) * head_dim * (1 + values)


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: one for each number read."""
    return numbers(spec, head_dim, keys, values)
