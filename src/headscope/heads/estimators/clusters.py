"""Clusters of keys, each with Gaussian scores: the bulk's log mass and mean value from a few centres.

One Gaussian fails where the bulk holds several kinds of keys (repeated text, thousands of tokens); centres see them.
The clusters share one covariance, up to a factor each. Reads C D + D (D + 1) / 2 + 2 C numbers a KV head and takes
about (C + D) D multiply-adds a query ("diagonal": C D + D + 2 C, and (C + 2) D), and C D more of both for the mean
value, whatever T is; the means may be held in few bits.

Shapes: B rows, H query heads, K KV heads, G = H // K, Q queries, N bulk keys, C clusters, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.bulk import Bulk
from headscope.heads.chunked_matmul import chunked_matmul, pad_to_chunks
from headscope.heads.mass import group_heads, precise
from headscope.heads.probe_metric import probe_metric
from headscope.heads.quantised import FULL, rounded, vectors_bytes

ROUNDS = 6
WIDTH = 4
"""Bytes of a number that is not rounded: float32."""

PLAN = {
    "options": {
        "clusters": {"type": "int", "help": "centres a KV head", "low": 1},
        "covariance": {
            "type": "str",
            "help": "covariance of the keys about their centre",
            "choices": ["full", "diagonal"],
            "default": "full",
        },
        "bits": {
            "type": "int",
            "help": "of a number of the centres; 16 rounds nothing",
            "unit": "bits",
            "low": 2,
            "high": 16,
            "default": 16,
        },
    },
    "probes": True,
    "ragged": True,
    "values": True,
}


@dataclass(frozen=True)
class ClusterSummary:
    """What is kept of a layer's bulk.

    Attributes:
        size: keys of each cluster, [K, C]; all zero where none was seen, and zero of those that a KV head with fewer
            than C keys does not have.
        key: their mean as it is held, rounded, [K, C, D].
        value: mean of their values, rounded too, [K, C, D].
        covariance: of the keys about their cluster's mean, over all clusters, [K, D, D]; its diagonal alone, [K, D].
        spread: each cluster's own variance over that of all, in the metric of the clusters, [K, C].
        made: how many of the C clusters k-means made, [K, 1], with or without keys; only `update` reads it and
        metric: factor of the metric, [K, D, D], and
        exact: the means before they were rounded.
    """

    size: Tensor
    key: Tensor
    value: Tensor
    covariance: Tensor
    spread: Tensor
    made: Tensor
    metric: Tensor
    exact: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Clusters:
    """Mixture of Gaussians; one cluster is the Gaussian of the prompt's own moments.

    Attributes:
        name: how tables call it.
        clusters: centres a KV head.
        covariance: "full" or "diagonal".
        bits: of a number of the clusters' means; 16 rounds nothing.
    """

    name: str
    clusters: int
    covariance: Literal["full", "diagonal"] = "full"
    bits: int = FULL
    ragged: ClassVar[bool] = True

    def summarise(self, bulk: Bulk) -> ClusterSummary:
        """Find the clusters by k-means in the probes' metric (without probes: Euclid's)."""
        keys, values, count = (
            pad_to_chunks(precise(bulk.keys)),
            pad_to_chunks(precise(bulk.values)),
            bulk.count[:, None],
        )
        metric = probe_metric(bulk, keys.dtype)
        seen, clusters = keys @ metric, count.clamp(1, self.clusters)
        there = torch.arange(keys.shape[1], device=keys.device) < count
        member = _kmeans(seen, count, clusters, max(1, min(self.clusters, bulk.index.shape[1])), there)
        size, count = member.sum(1), count.clamp(min=1)
        share = member / size.clamp(min=1)[:, None]
        exact = chunked_matmul(share, keys), chunked_matmul(share, values)
        distance = (seen - member @ chunked_matmul(share, seen)).square().sum(-1, keepdim=True)
        average = (distance.sum(1) / count).clamp(min=torch.finfo(keys.dtype).tiny)
        spread = chunked_matmul(share, distance)[..., 0] / average
        covariance = self._covariance(keys - member @ exact[0], count)
        return ClusterSummary(size, *self._held(exact, clusters), covariance, spread, clusters, metric, exact)

    def update(self, summary: ClusterSummary, keys: Tensor, values: Tensor) -> ClusterSummary:
        """Add keys and values, [K, N, D], to the nearest clusters; covariance and spreads stay as they were found.

        The order counts: a centre moves with the keys that join it.
        """
        keys, values = precise(keys).to(summary.key.dtype), precise(values).to(summary.key.dtype)
        member = _nearest(keys @ summary.metric, summary.exact[0] @ summary.metric, summary.size > 0)
        size = summary.size + member.sum(1)
        kept, joined = summary.size[..., None], member.transpose(1, 2)
        key, value = (
            (kept * old + joined @ new) / size[..., None].clamp(min=1)
            for old, new in zip(summary.exact, (keys, values), strict=True)
        )
        held = self._held((key, value), summary.made)
        return replace(summary, size=size, key=held[0], value=held[1], exact=(key, value))

    def _held(self, exact: tuple[Tensor, Tensor], made: Tensor) -> tuple[Tensor, Tensor]:
        """The means, [K, C, D], rounded about the mean of so many clusters, [K, 1]: the others have no key."""
        key, value = (rounded(mean, self.bits, mean.sum(1, keepdim=True) / made[..., None]) for mean in exact)
        return key, value

    def _covariance(self, rest: Tensor, count: Tensor) -> Tensor:
        """Covariance of `count` keys, [K, 1], about their clusters' means, [K, N, D]; zeros stand behind them."""
        if self.covariance == "diagonal":
            return rest.square().sum(1) / count
        return chunked_matmul(rest, rest) / count[..., None]

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the float32 numbers of a KV head's summary that a query reads, with those of its values or without."""
        return numbers(vars(self), head_dim, 0, values)

    def log_mass(self, query: Tensor, summary: ClusterSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]; the count, [Q] or [H, Q], is the true one, not that of the summary."""
        masses = _cluster_masses(query, summary, scale)
        seen = summary.size.sum(1).clamp(min=1).log().repeat_interleave(query.shape[1] // len(summary.size))
        return masses.logsumexp(-1) + bulk_size.to(masses.dtype).log() - seen[:, None]

    def value(self, query: Tensor, summary: ClusterSummary, scale: float) -> Tensor:
        """Estimated mean value of the bulk under the query's attention, [B, H, Q, D]."""
        weights = group_heads(_cluster_masses(query, summary, scale).softmax(-1), summary.key.shape[0])
        return (weights @ summary.value[:, None]).flatten(1, 2)


def _cluster_masses(query: Tensor, summary: ClusterSummary, scale: float) -> Tensor:
    """Log mass of every cluster, [B, H, Q, C]."""
    grouped = group_heads(precise(query), summary.key.shape[0]).to(summary.key.dtype)
    mean = grouped @ summary.key.transpose(1, 2)[:, None] * scale
    if summary.covariance.ndim == 2:
        turned = grouped * summary.covariance[:, None, None]
    else:
        turned = grouped @ summary.covariance[:, None]
    variance = (turned * grouped).sum(-1, keepdim=True).clamp(min=0) * scale**2
    masses = with_stand_in(summary.size, 1).log()[:, None, None] + mean + variance * summary.spread[:, None, None] / 2
    return masses.flatten(1, 2)


def with_stand_in(size: Tensor, weight: float) -> Tensor:
    """Sizes [K, C], not all of them zero: where no key was seen, one of score zero stands for the bulk, as the Gaussian
    has it, with this weight."""
    return size + pad(weight * (size.sum(1, keepdim=True) == 0), (0, size.shape[1] - 1))


def _kmeans(points: Tensor, count: Tensor, clusters: Tensor, most: int, there: Tensor) -> Tensor:
    """Which cluster each point is in, 0 or 1, [K, N, C], after a few rounds of Lloyd from evenly spaced points.

    Args:
        points: [K, N, D].
        count: how many each KV head has, the first ones, [K, 1].
        clusters: how many to make of them, [K, 1].
        most: C.
        there: which of the N there are, bool [K, N].
    """
    if not points.shape[1]:
        return points.new_zeros(len(points), 0, most)
    place = torch.arange(most, device=points.device)
    gaps = (clusters - 1).clamp(min=1)
    start = ((2 * place * (count - 1) + gaps) // (2 * gaps)).minimum(count - 1).clamp(min=0)
    centres = points.gather(1, start[..., None].expand(-1, -1, points.shape[2]))
    for _ in range(ROUNDS):
        member = _nearest(points, centres, place < clusters, there)
        size = member.sum(1)[..., None]
        centres = torch.where(size > 0, chunked_matmul(member, points) / size.clamp(min=1), centres)
    return _nearest(points, centres, place < clusters, there)


def _nearest(points: Tensor, centres: Tensor, made: Tensor, there: Tensor | None = None) -> Tensor:
    """Which of the centres that are made, bool [K, C], each point that is there is nearest to, 0 or 1, [K, N, C]."""
    half = (centres.square().sum(-1) / 2).masked_fill(~made, torch.inf)
    found = torch.baddbmm(half[:, None], points, centres.transpose(1, 2), alpha=-1).argmin(-1, keepdim=True)
    member = found == torch.arange(centres.shape[1], device=found.device)
    return (member if there is None else member & there[..., None]).to(points.dtype)


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Clusters:
    """Make the estimator."""
    return Clusters(spec["name"], spec["clusters"], spec["covariance"], spec["bits"])


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head's summary: each cluster's mean, size and spread, one covariance, and the values' means."""
    clusters: int = spec["clusters"]
    means = (1 + values) * vectors_bytes(clusters, spec["bits"], head_dim, WIDTH) / WIDTH
    return means + 2 * clusters + _spread(spec, head_dim)


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: the centres' scores, one variance for all, and the mean value."""
    clusters: int = spec["clusters"]
    variance = 2 * head_dim if spec["covariance"] == "diagonal" else head_dim * (head_dim + 1)
    return clusters * head_dim * (1 + values) + variance


def _spread(spec: Mapping[str, Any], head_dim: int) -> float:
    """Numbers of the covariance: it is symmetric."""
    return head_dim if spec["covariance"] == "diagonal" else head_dim * (head_dim + 1) / 2
