"""Adaptive decoding and prefill in plain torch: what the kernels compute, in the precision they are given.

Shapes: B sequences, H query heads, K KV heads, G = H // K, T tokens, N keys of some kind, S summaries, D head_dim.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from headscope.kernels.layer import Cache, Decoded, Means, Outliers, Rest, Rule, rows_of


def decode(
    query: Tensor,
    cache: Cache,
    rest: Rest,
    rule: Rule,
    sink: int,
    recent: int,
    scale: float,
    outliers: Outliers | None = None,
) -> Decoded:
    """Attend with one query of every sequence, [B, H, D]: over all keys where a head is long, else over its window.

    A margin that is NaN makes its head long; without a bulk every head is local.
    """
    found = [_sequence(query, cache, rest, rule, sink, recent, scale, outliers, b) for b in range(len(query))]
    return Decoded(torch.stack([output for output, _ in found]), torch.stack([long for _, long in found]))


def join(cache: Cache, rest: Rest, means: Means, sink: int, recent: int) -> None:
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


def prefill(
    query: Tensor, key: Tensor, value: Tensor, mean: Tensor, covariance: Tensor, meets: Tensor, rule: Rule,
    sink: int, recent: int, scale: float,
) -> Decoded:  # fmt: skip
    """Causal attention of whole prompts [B, H, T, D]: over all keys where a pair is long, else over its window.

    Args:
        query: [B, H, T, D].
        key: [B, K, T, D].
        value: [B, K, T, D].
        mean: of the bulk's keys, [B, K, S, D].
        covariance: of them, [B, K, S, D, D].
        meets: which summary each token meets, [T].
        rule: labels the pairs by the share of their window.
        sink: first keys of the window.
        recent: its last keys.
        scale: factor of the scores.
    """
    group = query.shape[1] // key.shape[1]
    key, value, mean, covariance = (x.repeat_interleave(group, 1) for x in (key, value, mean, covariance))
    output, long = torch.empty_like(query), torch.empty(query.shape[:3], dtype=torch.bool, device=query.device)
    for summary in range(mean.shape[2]):  # the scores of its tokens alone are in memory
        at = (meets == summary).nonzero()[:, 0]
        met = mean[:, :, summary], covariance[:, :, summary]
        found = _prefilled(query[:, :, at], at, key, value, *met, rule, sink, recent, scale)
        output[:, :, at], long[:, :, at] = found.output, found.long
    return Decoded(output, long)


def met(starts: Tensor, tokens: int) -> Tensor:
    """Which summary each of the tokens meets, [T], by their starts, [S]; those before the first meet it too."""
    position = torch.arange(tokens, device=starts.device)
    return torch.searchsorted(starts, position, right=True).sub(1).clamp(min=0)


def _prefilled(
    query: Tensor, at: Tensor, key: Tensor, value: Tensor, mean: Tensor, covariance: Tensor, rule: Rule,
    sink: int, recent: int, scale: float,
) -> Decoded:  # fmt: skip
    """The queries [B, H, Q, D] at some positions, [Q], that meet one summary; keys are repeated for all H."""
    position = torch.arange(key.shape[2], device=key.device)
    behind = at[:, None] - position
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(behind < 0, -torch.inf)
    local = (position < sink) | (behind < recent)
    windowed = scores.masked_fill(~local, -torch.inf)
    variance = torch.einsum("bhtd,bhde,bhte->bht", query, covariance, query).clamp(min=0) * scale**2
    bulk = (at + 1 - sink - recent).clamp(min=0)
    mass = (query @ mean[..., None])[..., 0] * scale + variance / 2 + bulk.to(query.dtype).log()
    margin = windowed.logsumexp(-1) - mass
    long = _long(margin, rule.slope[:, None], rule.offset[:, None], rule.threshold[..., None]) & (bulk > 0)
    output = torch.where(long[..., None], scores.softmax(-1) @ value, windowed.softmax(-1) @ value)
    return Decoded(output, long)


def _sequence(
    query: Tensor,
    cache: Cache,
    rest: Rest,
    rule: Rule,
    sink: int,
    recent: int,
    scale: float,
    outliers: Outliers | None,
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
    long = _long(margin, rule.slope, rule.offset, rule.threshold[b]) & bool((~local).any())
    if rule.correction:
        window = torch.lerp(window, value, (mass - window_mass).sigmoid()[:, None])
    return torch.where(long[:, None], whole, window), long


def _attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass [G] and output [G, D] of queries [G, D] over keys and values [N, D]."""
    scores = query @ keys.T * scale
    return scores.logsumexp(-1), scores.softmax(-1) @ values


def _estimated(query: Tensor, rest: Rest, b: int, k: int, scale: float) -> tuple[Tensor, Tensor]:
    """Log mass of the mean bulk key, [G], and mean value of the bulk, [G, D], of one KV head."""
    covariance = rest.covariance[b, k]
    turned = query * covariance if covariance.ndim == 1 else query @ covariance
    variance = (turned * query).sum(-1).clamp(min=0) * scale**2
    share = (rest.size[b, k] / rest.size[b, k].sum()).log()
    masses = share + query @ rest.keys[b, k].T * scale + variance[:, None] * rest.spread[b, k] / 2
    return masses.logsumexp(-1), masses.softmax(-1) @ rest.values[b, k]


def _long(margin: Tensor, slope: Tensor, offset: Tensor, threshold: Tensor) -> Tensor:
    """Whether calibrated margins are below the threshold, or NaN; infinite ones stay as they are."""
    calibrated = torch.where(margin.isinf(), margin, slope * margin + offset)
    return ~(calibrated >= threshold)
