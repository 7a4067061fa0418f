"""Adaptive decoding in plain torch, in its inputs' precision: what the decoding kernels are tested against.

Shapes: B sequences, H query heads, K KV heads, G = H // K, N keys, D head_dim.
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
    calibrated,
    is_long,
    sequence_keys_and_values,
)


def attend_step(
    query: Tensor,
    cache: Cache,
    summary: BulkSummary,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    outliers: OutlierKeys | None = None,
) -> Decided:
    """Attend with one query of every sequence, [B, H, D]: over all keys where a head is long, else over its window.

    A margin that is NaN makes its head long; without a bulk every head is local.
    """
    sequences = [_sequence(query, cache, summary, rule, sink, recent, scale, outliers, b) for b in range(len(query))]
    outputs, labels = zip(*sequences, strict=True)
    return Decided(torch.stack(outputs), torch.stack(labels))


def update_clusters(cache: Cache, summary: BulkSummary, means: ClusterMeans, sink: int, recent: int) -> None:
    """Update summary and means in place by the last key behind the window of each sequence; once a step, no pages."""
    leaving = cache.lengths.long() - recent - 1
    at = leaving.clamp(min=0)[:, None, None, None].expand(-1, *cache.keys.shape[1:2], 1, cache.keys.shape[3])
    key, value = (x.gather(2, at).to(means.keys.dtype) for x in (cache.keys, cache.values))
    distance = ((key - means.keys) @ means.metric).square().sum(-1).masked_fill(summary.size == 0, torch.inf)
    nearest = one_hot(distance.argmin(-1), summary.size.shape[-1]) * (leaving >= sink)[:, None, None]
    summary.size.add_(nearest)
    step = (nearest / summary.size.clamp(min=torch.finfo(summary.size.dtype).tiny))[..., None]
    for new, exact, rounded in ((key, means.keys, summary.keys), (value, means.values, summary.values)):
        exact.add_(torch.where(step > 0, new - exact, 0) * step)
        rounded.copy_(torch.where(step > 0, exact.to(rounded.dtype), rounded))


def _sequence(
    query: Tensor,
    cache: Cache,
    summary: BulkSummary,
    rule: DecisionRule,
    sink: int,
    recent: int,
    scale: float,
    outliers: OutlierKeys | None,
    b: int,
) -> tuple[Tensor, Tensor]:
    """Output [H, D] and labels [H] of one sequence."""
    keys, values = sequence_keys_and_values(cache, b)
    grouped = query[b].view(keys.shape[0], -1, query.shape[-1])
    length = keys.shape[1]
    position = torch.arange(length, device=keys.device)
    local = (position < sink) | (position >= length - recent)
    heads = []
    for k in range(len(keys)):
        count = 0 if outliers is None else int(outliers.count[b, k])
        window_keys, window_values = keys[k, local], values[k, local]
        if outliers is not None:
            window_keys = torch.cat([window_keys, outliers.keys[b, k, :count]])
            window_values = torch.cat([window_values, outliers.values[b, k, :count]])
        window_mass, window = _attended(grouped[k], window_keys, window_values, scale)
        mass, value = _estimated(grouped[k], summary, b, k, scale)
        mass = mass + torch.tensor(max(0, int((~local).sum()) - count), dtype=mass.dtype).log()
        heads.append((window_mass, window, mass, value, _attended(grouped[k], keys[k], values[k], scale)[1]))
    window_mass, window, mass, value, whole = (torch.cat(x) for x in zip(*heads, strict=True))
    margin = window_mass - mass
    if rule.lost_output:
        margin = -(logsigmoid(mass - window_mass) + (value - window).norm(dim=-1).log())
    margin, threshold = calibrated(margin, rule.slope, rule.offset), rule.threshold[b]
    if rule.by_group:
        group = grouped.shape[1]
        margin = group_margin(margin.view(-1, group), rule.lost_output).repeat_interleave(group)
        threshold = threshold.view(-1, group).amax(1).repeat_interleave(group)
    long = is_long(margin, threshold) & bool((~local).any())
    return torch.where(long[:, None], whole, window), long


def group_margin(margin: Tensor, lost_output: bool) -> Tensor:
    """Combine calibrated margins of the heads of a group, [K, G], into one, [K].

    Margins of lost outputs are negative log norms: the squares of the norms add up. Other margins are log-odds of the
    window's share: kept and lost shares add up.
    """
    if lost_output:
        return -(-2 * margin).logsumexp(-1) / 2
    return logsigmoid(margin).logsumexp(-1) - logsigmoid(-margin).logsumexp(-1)


def _attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass [G] and output [G, D] of queries [G, D] over keys and values [N, D]."""
    scores = query @ keys.T * scale
    return scores.logsumexp(-1), scores.softmax(-1) @ values


def _estimated(query: Tensor, summary: BulkSummary, b: int, k: int, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass of the mean bulk key, [G], and mean value of the bulk, [G, D], of one KV head."""
    covariance = summary.covariance[b, k]
    turned = query * covariance if covariance.ndim == 1 else query @ covariance
    variance = (turned * query).sum(-1).clamp(min=0) * scale**2
    share = (summary.size[b, k] / summary.size[b, k].sum()).log()
    masses = share + query @ summary.keys[b, k].T * scale + variance[:, None] * summary.spread[b, k] / 2
    return masses.logsumexp(-1), masses.softmax(-1) @ summary.values[b, k]
