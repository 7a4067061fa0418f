"""Every bulk key in a few dimensions and bits: approximate scores, and their exact log mass.

The dimensions are those in which the scores of the probes differ most; without probes, in which the keys do. The mean
key is scored exactly. Grows with T: reads T R numbers of `bits` bits (and T D where values are asked for) and takes as
many multiply-adds a query.

Shapes: B rows, H query heads, K KV heads, Q queries, N bulk keys, R rank, D head_dim.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import for_size, group_heads, precise, query_chunks
from headscope.heads.probe_metric import probe_metric
from headscope.heads.quantised import rounded, vectors_bytes


@dataclass(frozen=True)
class LowRankSummary:
    """What is kept of a layer's bulk.

    Attributes:
        centre: mean key at the boundary, [K, D].
        of_query: takes queries to the kept dimensions, [K, D, R].
        of_key: takes keys to them, [K, D, R]; only `update` reads it.
        keys: less the centre, in the kept dimensions, rounded, [K, N, R].
        values: rounded, [K, N, D].
    """

    centre: Tensor
    of_query: Tensor
    of_key: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class LowRankKeys:
    """Log mass of approximate scores of all keys.

    Attributes:
        name: how tables call it.
        rank: dimensions that are kept of a key.
        bits: of a number of keys and values; 16 rounds nothing.
    """

    name: str
    rank: int
    bits: int

    def summarise(self, bulk: Bulk) -> LowRankSummary:
        """Find the dimensions and project the keys."""
        keys, values = precise(bulk.keys), precise(bulk.values)
        centre = keys.sum(1) / max(keys.shape[1], 1)
        factor = probe_metric(bulk, keys.dtype)
        seen = (keys - centre[:, None]) @ factor
        # k L and L^-1 q have the same product as k and q; there the best R dimensions are orthogonal. eigh raises where
        # it meets a NaN; the keys carry it on.
        vectors = torch.linalg.eigh((seen.transpose(1, 2) @ seen).nan_to_num()).eigenvectors[..., -self.rank :]
        of_query = torch.linalg.solve_triangular(factor.transpose(1, 2), vectors, upper=True)
        start = LowRankSummary(centre, of_query, factor @ vectors, seen[:, :0] @ vectors, values[:, :0])
        return self.update(start, keys, values)

    def update(self, summary: LowRankSummary, keys: Tensor, values: Tensor) -> LowRankSummary:
        """Append keys and values, [K, N, D]; dimensions and centre stay as they were found."""
        keys = (precise(keys).to(summary.keys.dtype) - summary.centre[:, None]) @ summary.of_key
        joined = [
            torch.cat([old, rounded(new, self.bits, about=torch.zeros_like(new[:, :1])).to(old.dtype)], 1)
            for old, new in ((summary.keys, keys), (summary.values, values))
        ]
        return replace(summary, keys=joined[0], values=joined[1])

    def log_mass(self, query: Tensor, summary: LowRankSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count is the true one, not that of the summary."""
        mass = torch.cat([scores.logsumexp(-1) for scores in _scores(query, summary, scale)], -1).flatten(1, 2)
        return for_size(mass, summary.keys.shape[1], bulk_size)

    def value(self, query: Tensor, summary: LowRankSummary, scale: float) -> Tensor:
        """Mean value by the approximate scores, [B, H, Q, D]."""
        weights = (scores.softmax(-1) for scores in _scores(query, summary, scale))
        parts = [torch.einsum("bkgqn,knd->bkgqd", part, summary.values) for part in weights]
        return torch.cat(parts, -2).flatten(1, 2)


def _scores(query: Tensor, summary: LowRankSummary, scale: float) -> Iterator[Tensor]:
    """Approximate scores of all keys, [B, K, G, q, N], in chunks of queries."""
    grouped = group_heads(precise(query), summary.keys.shape[0]).to(summary.keys.dtype)
    scores_per_query = query[:, :, 0, 0].numel() * summary.keys.shape[1]
    for part in query_chunks(query.shape[2], scores_per_query, query.device):
        of_mean = torch.einsum("bkgqd,kd->bkgq", grouped[..., part, :], summary.centre)
        projected = torch.einsum("bkgqd,kdr->bkgqr", grouped[..., part, :], summary.of_query)
        apart = torch.einsum("bkgqr,knr->bkgqn", projected, summary.keys)
        yield (of_mean[..., None] + apart) * scale


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> LowRankKeys:
    """Make the estimator."""
    return LowRankKeys(spec["name"], spec["rank"], spec["bits"])


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """What a query reads of a KV head, in float32 numbers: mean key, dimensions, keys and values in few bits."""
    rank, bits = int(spec["rank"]), int(spec["bits"])
    in_bits = vectors_bytes(keys, bits, rank, 4) + values * vectors_bytes(keys, bits, head_dim, 4)
    return head_dim + head_dim * rank + in_bits / 4


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: its score of the mean key, its projection, all scores, and the mean value."""
    rank: int = spec["rank"]
    return head_dim * (1 + rank) + keys * (rank + values * head_dim)
