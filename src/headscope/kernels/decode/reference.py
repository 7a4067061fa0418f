"""Adaptive decoding in plain torch, in the precision it is given: what the decoding kernels are tested against.

Shapes: B sequences, H query heads, K KV heads, G = H // K, N keys of some kind, D head_dim.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from headscope.kernels.common.layer import (
    BulkSummary,
    Cache,
    ClusterMeans,
    Decided,
    DecisionRule,
    OutlierKeys,
    is_long,
    rows_of,
)


def attend_step(
    query: Tensor,
    cache: Cache,
    rest: BulkSummary,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    outliers: OutlierKeys | None = None,
) -> Decided:
    """Attend with one query of every sequence, [B, H, D]: over all keys where a head is long, else over its window.

    A margin that is NaN makes its head long; without a bulk every head is local.
    """
    found = [_sequence(query, cache, rest, rule, sink, recent, scale, outliers, b) for b in range(len(query))]
    return Decided(torch.stack([output for output, _ in found]), torch.stack([long for _, long in found]))


def update_clusters(cache: Cache, rest: BulkSummary, means: ClusterMeans, sink: int, recent: int) -> None:
    """Update `rest` and `means` in place by the last key behind the window of each sequence; once a step, no pages."""
    leaving = cache.lengths.long() - recent - 1
    at = leaving.clamp(min=0)[:, None, None, None].expand(-1, *cache.keys.shape[1:2], 1, cache.keys.shape[3])
    key, value = (x.gather(2, at).to(means.keys.dtype) for x in (cache.keys, cache.values))
    distance = ((key - means.keys) @ means.metric).square().sum(-1).masked_fill(rest.size == 0, torch.inf)
    joined = one_hot(distance.argmin(-1), rest.size.shape[-1]) * (leaving >= sink)[:, None, None]
    rest.size.add_(joined)
    step = (joined / rest.size.clamp(min=torch.finfo(rest.size.dtype).tiny))[..., None]
    for new, exact, held in ((key, means.keys, rest.keys), (value, means.values, rest.values)):
        exact.add_(torch.where(step > 0, new - exact, 0) * step)
        held.copy_(torch.where(step > 0, exact.to(held.dtype), held))


def _sequence(
    query: Tensor,
    cache: Cache,
    rest: BulkSummary,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    outliers: OutlierKeys | None,
    b: int,
) -> tuple[Tensor, Tensor]:
    """Output [H, D] and labels [H] of one sequence."""
    keys, values = rows_of(cache, b)
    grouped = query[b].view(keys.shape[0], -1, query.shape[-1])
    length = keys.shape[1]
    position = torch.arange(length, device=keys.device)
    local = (position < sink) | (position >= length - recent)
    found = []
    for k in range(len(keys)):
        held = 0 if outliers is None else int(outliers.count[b, k])
        window_keys, window_values = keys[k, local], values[k, local]
        if outliers is not None:
            window_keys = torch.cat([window_keys, outliers.keys[b, k, :held]])
            window_values = torch.cat([window_values, outliers.values[b, k, :held]])
        window_mass, window = _attended(grouped[k], window_keys, window_values, scale)
        mass, value = _estimated(grouped[k], rest, b, k, scale)
        mass = mass + torch.tensor(max(0, int((~local).sum()) - held), dtype=mass.dtype).log()
        found.append((window_mass, window, mass, value, _attended(grouped[k], keys[k], values[k], scale)[1]))
    window_mass, window, mass, value, whole = (torch.cat(parts) for parts in zip(*found, strict=True))
    margin = window_mass - mass
    if rule.lost_output:
        margin = -(logsigmoid(mass - window_mass) + (value - window).norm(dim=-1).log())
    long = is_long(margin, rule.slope, rule.offset, rule.threshold[b]) & bool((~local).any())
    return torch.where(long[:, None], whole, window), long


def _attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass [G] and output [G, D] of queries [G, D] over keys and values [N, D]."""
    scores = query @ keys.T * scale
    return scores.logsumexp(-1), scores.softmax(-1) @ values


def _estimated(query: Tensor, rest: BulkSummary, b: int, k: int, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass of the mean bulk key, [G], and mean value of the bulk, [G, D], of one KV head."""
    covariance = rest.covariance[b, k]
    turned = query * covariance if covariance.ndim == 1 else query @ covariance
    variance = (turned * query).sum(-1).clamp(min=0) * scale**2
    share = (rest.size[b, k] / rest.size[b, k].sum()).log()
    masses = share + query @ rest.keys[b, k].T * scale + variance[:, None] * rest.spread[b, k] / 2
    return masses.logsumexp(-1), masses.softmax(-1) @ rest.values[b, k]
