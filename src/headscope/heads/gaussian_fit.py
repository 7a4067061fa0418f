"""How well a Gaussian describes the scores of a bulk: the error of its log mass, and the shape of the scores.

Scores are computed a chunk of queries at a time. Shapes: H query heads, K KV heads, Q queries, T keys, D head_dim,
Z quantiles, M measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.heads.mass import group_heads, masked_log_mass, precise, query_chunks
from headscope.heads.moments import KeyMoments, gaussian_log_mass
from headscope.heads.window import Window

TOP = (1, 8, 64)
"""Numbers of largest keys whose share of the bulk's mass is measured."""
NORMAL = torch.linspace(-3, 3, 41, dtype=torch.float64)
"""Standard normal quantiles, [Z]; score quantiles are taken at their probabilities."""


@dataclass(frozen=True)
class Layer:
    """Queries from the boundary on and all keys of one layer.

    Attributes:
        query: rotated queries, [H, Q, D].
        key: rotated keys of positions 0 to T - 1, [K, T, D].
        boundary: position of the first query; the Gaussian is fitted to the bulk keys before it.
        scale: factor of the scores.
    """

    query: Tensor
    key: Tensor
    boundary: int
    scale: float

    def moments(self, window: Window) -> KeyMoments:
        """Return the moments of the bulk keys at the boundary."""
        first, last = window.summarised(self.boundary)
        return KeyMoments.of(self.key[:, first:last])

    def with_bulk(self, window: Window) -> Tensor:
        """Return the positions of the queries that have a bulk; none if there is no key to fit the Gaussian to."""
        first, last = window.summarised(self.boundary)
        position = torch.arange(self.boundary, self.boundary + self.query.shape[1], device=self.query.device)
        return position[(window.bulk_size(position) > 0) & (first < last)]

    def chunks(self, position: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield positions [q] and scores [H, q, T] of the queries there."""
        keys = precise(self.key).transpose(1, 2)[:, None]
        for part in query_chunks(len(position), self.query.shape[0] * self.key.shape[1], self.key.device):
            query = precise(self.query[:, position[part] - self.boundary])
            yield position[part], (group_heads(query[None], self.key.shape[0])[0] @ keys).flatten(0, 1) * self.scale


def window_fit(layer: Layer, window: Window) -> dict[str, Tensor]:
    """Measure the bulk of a window, [H] each, over the queries that have a bulk; empty where none has.

    Returns:
        bias: mean error (estimate - truth) of the Gaussian log mass, in nats.
        rmse: its root mean square, in nats.
        lost_share: mean share of the attention mass that the bulk holds.
        score_std: mean standard deviation of the bulk's scores, in nats.
        skewness, kurtosis: mean skewness and excess kurtosis of the bulk's scores, 0 for Gaussian ones.
        top_1, top_8, top_64: mean share of the bulk's mass that its largest keys hold.
    """
    position = layer.with_bulk(window)
    if not len(position):
        return {}
    measured = torch.cat([_measures(layer, window, *chunk) for chunk in layer.chunks(position)], -1)
    error = measured[0]
    means = measured[1:].nanmean(-1)  # equal scores have no skewness
    names = ["lost_share", "score_std", "skewness", "kurtosis", *(f"top_{count}" for count in TOP)]
    return {"bias": error.mean(-1), "rmse": error.square().mean(-1).sqrt(), **dict(zip(names, means, strict=True))}


def _measures(layer: Layer, window: Window, position: Tensor, scores: Tensor) -> Tensor:
    """Measure each query, [M, H, q]: error, bulk's share, standard deviation, skewness, excess kurtosis, top shares."""
    key_position = torch.arange(scores.shape[-1], device=scores.device)
    bulk = window.bulk(position, key_position)
    mass = masked_log_mass(scores, bulk)
    local = masked_log_mass(scores, window.local(position, key_position))
    query = layer.query[None, :, position - layer.boundary]
    expected = layer.moments(window).score_moments(query, layer.scale)
    estimate = gaussian_log_mass(*expected, window.bulk_size(position))[0]
    (standard, std), count = standardised(scores, bulk), bulk.sum(-1)
    square = standard.square()  # several times faster than pow
    shape = [(square * standard).sum(-1) / count, square.square().sum(-1) / count - 3]
    share, top = torch.sigmoid(mass - local), _top_shares(scores, bulk, mass)
    return torch.stack([estimate - mass, share, std, *shape, *top])


def standardised(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Standardise the scores under a mask, [H, Q, T], and return their standard deviation, [H, Q], too.

    Standardised scores are 0 outside the mask, and NaN where all scores under it are equal.
    """
    count = mask.sum(-1, keepdim=True)
    mean = scores.masked_fill(~mask, 0).sum(-1, keepdim=True) / count
    centred = (scores - mean).masked_fill(~mask, 0)
    std = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / std, std[..., 0]


def _top_shares(scores: Tensor, bulk: Tensor, mass: Tensor) -> list[Tensor]:
    top = scores.masked_fill(~bulk, -torch.inf).topk(min(max(TOP), scores.shape[-1]), -1).values
    return [(top[..., :count].logsumexp(-1) - mass).exp() for count in TOP]


def score_quantiles(layer: Layer, window: Window) -> Tensor:
    """Return quantiles of the standardised bulk scores at the probabilities of `NORMAL`, mean over queries, [H, Z].

    NaN where no query has a bulk.
    """
    parts = [_quantiles(scores, window, position) for position, scores in layer.chunks(layer.with_bulk(window))]
    return torch.cat(parts, 1).nanmean(1) if parts else layer.query.new_full((len(layer.query), len(NORMAL)), torch.nan)


def _quantiles(scores: Tensor, window: Window, position: Tensor) -> Tensor:
    """Interpolate linearly between neighbours in order, [H, q, Z]."""
    bulk = window.bulk(position, torch.arange(scores.shape[-1], device=scores.device))
    ordered = standardised(scores, bulk)[0].masked_fill(~bulk, torch.inf).sort(-1).values
    last = bulk.sum(-1, keepdim=True) - 1
    place = torch.special.ndtr(NORMAL).to(scores.device) * last
    left = place.long()
    right = torch.minimum(left + 1, last)
    low, high = (ordered.gather(-1, index.expand(len(scores), -1, -1)) for index in (left, right))
    return torch.lerp(low, high, (place - left).to(scores.dtype).expand_as(low))


def spectrum(covariance: Tensor) -> Tensor:
    """Return the eigenvalues of [K, D, D] as shares of the trace, largest first, [K, D]; NaN without any variance."""
    values = torch.linalg.eigvalsh(covariance).clamp(min=0).flip(-1)
    shares: Tensor = values / values.sum(-1, keepdim=True)
    return shares


def effective_rank(shares: Tensor) -> Tensor:
    """Return the participation ratio of a spectrum [K, D]: D if all eigenvalues are equal, 1 if one is all, [K]."""
    return 1 / shares.square().sum(-1)
