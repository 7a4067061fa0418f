"""Exact log masses of window and bulk: logsumexp of the scores of the keys on either side.

Shapes: B prompts, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, T keys, D head_dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.errors import ShapeError
from headscope.heads.window import Window

MAX_SCORES = 1 << 23
"""Scores held at once: 32 MiB in float32, a few times that with the masked copies."""
ON_GPU = 8
"""Times as many on a GPU, which has the memory and takes as long for a small chunk."""


@dataclass(frozen=True)
class Masses:
    """Log masses of both sides of the window.

    Attributes:
        local: logsumexp of the window's scores, [B, H, Q], float32 or better.
        bulk: logsumexp of the bulk's scores, [B, H, Q]; -inf where there is no bulk.
        bulk_size: bulk keys of each query, [Q].
    """

    local: Tensor
    bulk: Tensor
    bulk_size: Tensor


def precise(x: Tensor) -> Tensor:
    """Raise half precision to float32; float32 and float64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def group_heads(query: Tensor, kv_heads: int) -> Tensor:
    """Split [B, H, Q, D] into [B, K, G, Q, D] without a copy.

    Raises:
        ShapeError: query heads are no multiple of the KV heads.
    """
    batch, heads, queries, dim = query.shape
    if heads % kv_heads:
        raise ShapeError(f"query heads ({heads}) must be a multiple of the KV heads ({kv_heads})")
    return query.reshape(batch, kv_heads, heads // kv_heads, queries, dim)


def times_by_head(grouped: Tensor, matrices: Tensor) -> Tensor:
    """Multiply [B, K, G, Q, D] by one matrix a KV head, [K, D, N]: [B, K, G, Q, N], without a copy of it per query."""
    by_head = grouped.transpose(0, 1)
    return (by_head.flatten(1, 3) @ matrices).view(*by_head.shape[:-1], -1).transpose(0, 1)


def query_chunks(queries: int, scores_per_query: int, device: torch.device) -> Iterator[slice]:
    """Cut the queries so that no chunk holds more than `MAX_SCORES` scores, on a GPU `ON_GPU` times as many."""
    most = MAX_SCORES * (ON_GPU if device.type == "cuda" else 1)
    step = max(1, most // max(1, scores_per_query))
    for first in range(0, queries, step):
        yield slice(first, min(first + step, queries))


def masked_log_mass(scores: Tensor, keep: Tensor) -> Tensor:
    """Logsumexp over the kept keys: [..., Q, T] and bool [Q, T] to [..., Q]; -inf where none is kept."""
    return scores.masked_fill(~keep, -torch.inf).logsumexp(-1)


def log_masses(query: Tensor, key: Tensor, query_position: Tensor, window: Window, scale: float) -> Masses:
    """Compute window and bulk log masses of every query, a chunk of queries at a time.

    Args:
        query: rotated queries, [B, H, Q, D].
        key: rotated keys of positions 0 to T - 1, [B, K, T, D].
        query_position: absolute positions, [Q].
        window: which keys are local.
        scale: factor of the scores, 1 / sqrt(D) for most models.

    Raises:
        ShapeError: query heads are no multiple of the KV heads.
    """
    grouped, bulk_size = group_heads(query, key.shape[1]), window.bulk_size(query_position)
    batch, heads, queries, _ = query.shape
    grouped, keys = precise(grouped), precise(key).transpose(-1, -2)[:, :, None]
    key_position = torch.arange(key.shape[2], device=key.device)
    local, bulk = list[Tensor](), list[Tensor]()
    for part in query_chunks(queries, batch * heads * key.shape[2], key.device):
        scores = (grouped[..., part, :] @ keys).flatten(1, 2).mul_(scale)
        position = query_position[part]
        for masses, rule in ((local, window.local), (bulk, window.bulk)):
            hidden = ~rule(position, key_position)
            # Head by head, so that what is read again is still in the processor's cache.
            by_head = [_logsumexp(head.masked_fill(hidden, -torch.inf)) for head in scores.flatten(0, 1)]
            masses.append(torch.stack(by_head).view(batch, heads, -1))
    return Masses(torch.cat(local, -1), torch.cat(bulk, -1), bulk_size)


def _logsumexp(scores: Tensor) -> Tensor:
    """Compute `scores.logsumexp(-1)`, bit for bit, in the memory of the scores."""
    most = scores.amax(-1, keepdim=True)
    most.masked_fill_(most.isinf(), 0)
    return scores.sub_(most).exp_().sum(-1).log_().add_(most[..., 0])
