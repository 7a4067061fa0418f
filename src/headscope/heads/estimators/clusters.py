"""Clusters of keys, each with Gaussian scores: the bulk's log mass and mean value from a few centres.

One Gaussian fails where the bulk holds several kinds of keys (repeated text, thousands of tokens); centres see them.
The clusters share one covariance, up to a factor each. Reads C D + D (D + 1) / 2 + 2 C numbers a KV head and takes
about (C + D) D multiply-adds a query ("diagonal": C D + D + 2 C, and (C + 2) D), and C D more of both for the mean
value, whatever T is; the means may be held in few bits.

Shapes: B rows, H query heads, K KV heads, G = H // K, Q queries, N bulk keys, C clusters, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.bulk import Bulk
from headscope.heads.chunked_matmul import chunked_matmul, pad_to_chunks
from headscope.heads.kmeans import kmeans, nearest
from headscope.heads.mass import group_heads, precise, times_by_head
from headscope.heads.probe_metric import probe_metric
from headscope.heads.quantised import FULL, rounded, vectors_bytes

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
    """Summary of a layer's bulk.

    Attributes:
        size: keys of each cluster, [K, C]; all zero for a bulk without keys, and zero of the clusters that a KV head
            with fewer than C keys lacks.
        key: their mean, rounded, [K, C, D].
        value: mean of their values, rounded too, [K, C, D].
        covariance: of the keys about their cluster's mean, over all clusters, [K, D, D]; its diagonal alone, [K, D].
        spread: each cluster's own variance over that of all, in the metric of the clusters, [K, C].
        made: how many of the C clusters k-means made, [K, 1], with or without keys. Only `update` reads this,
        metric: factor of the metric, [K, D, D], and
        exact: the means before rounding.
    """

    size: Tensor
    key: Tensor
    value: Tensor
    covariance: Tensor
    spread: Tensor
    made: Tensor
    metric: Tensor
    exact: tuple[Tensor, Tensor]

    @cached_property
    def log_size(self) -> Tensor:
        """Log size of each cluster, [K, C]; a bulk without keys has one of score zero."""
        return with_stand_in(self.size, 1).log()

    @cached_property
    def log_count(self) -> Tensor:
        """Log number of the keys, [K]; zero of none."""
        return self.size.sum(1).clamp(min=1).log()


@dataclass(frozen=True)
class Clusters:
    """Mixture of Gaussians; one cluster is the Gaussian of the prompt's own moments.

    Attributes:
        name: how tables call it.
        clusters: centres a KV head.
        covariance: "full" or "diagonal".
        bits: of a number of the clusters' means; 16 rounds nothing.
    """

    joinable: ClassVar[bool] = True

    name: str
    clusters: int
    covariance: Literal["full", "diagonal"] = "full"
    bits: int = FULL

    def summarise(self, bulk: Bulk) -> ClusterSummary:
        """Find the clusters by k-means in the probes' metric (without probes: Euclid's)."""
        keys, values = (pad_to_chunks(precise(vectors)) for vectors in (bulk.keys, bulk.values))
        metric, count = probe_metric(bulk, keys.dtype), bulk.count[:, None]
        points, clusters = keys @ metric, count.clamp(1, self.clusters)
        member = kmeans(points, count, clusters, max(1, min(self.clusters, bulk.index.shape[1])))
        size, count = member.sum(1), count.clamp(min=1)
        share = member / size.clamp(min=1)[:, None]
        exact = chunked_matmul(share, keys), chunked_matmul(share, values)
        distance = (points - member @ chunked_matmul(share, points)).square().sum(-1, keepdim=True)
        average = (distance.sum(1) / count).clamp(min=torch.finfo(keys.dtype).tiny)
        spread = chunked_matmul(share, distance)[..., 0] / average
        covariance = self._covariance(keys - member @ exact[0], count)
        return ClusterSummary(size, *self._rounded(exact, clusters), covariance, spread, clusters, metric, exact)

    def update(self, summary: ClusterSummary, keys: Tensor, values: Tensor) -> ClusterSummary:
        """Add keys and values, [K, N, D], to the nearest clusters; covariance and spreads stay as they are.

        The order counts: a centre moves with the keys that join it.
        """
        keys, values = precise(keys).to(summary.key.dtype), precise(values).to(summary.key.dtype)
        member = nearest(keys @ summary.metric, summary.exact[0] @ summary.metric, summary.size > 0)
        size = summary.size + member.sum(1)
        before, joining = summary.size[..., None], member.transpose(1, 2)
        key, value = (
            (before * mean + joining @ new) / size[..., None].clamp(min=1)
            for mean, new in zip(summary.exact, (keys, values), strict=True)
        )
        rounded_key, rounded_value = self._rounded((key, value), summary.made)
        return replace(summary, size=size, key=rounded_key, value=rounded_value, exact=(key, value))

    def _rounded(self, exact: tuple[Tensor, Tensor], made: Tensor) -> tuple[Tensor, Tensor]:
        """Round the means, [K, C, D], about the mean of the clusters that k-means made, [K, 1]."""
        key, value = (rounded(mean, self.bits, mean.sum(1, keepdim=True) / made[..., None]) for mean in exact)
        return key, value

    def _covariance(self, rest: Tensor, count: Tensor) -> Tensor:
        """Return the covariance of `count` keys, [K, 1], from their distances to the clusters' means, [K, N, D]."""
        if self.covariance == "diagonal":
            return rest.square().sum(1) / count
        return chunked_matmul(rest, rest) / count[..., None]

    def numbers(self, head_dim: int, values: bool) -> float:
        """Count the float32 numbers of a KV head's summary that a query reads, with those of its values or without."""
        means = (1 + values) * vectors_bytes(self.clusters, self.bits, head_dim, WIDTH) / WIDTH
        covariance = head_dim if self.covariance == "diagonal" else head_dim * (head_dim + 1) / 2  # it is symmetric
        return means + 2 * self.clusters + covariance

    def log_mass(self, query: Tensor, summary: ClusterSummary, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimate the bulk log mass, [B, H, Q], of the true number of keys, [Q] or [H, Q]."""
        return _mass(_cluster_masses(query, summary, scale), summary, bulk_size)

    def mass_and_value(
        self, query: Tensor, summary: ClusterSummary, bulk_size: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Estimate the log mass of the bulk and its mean value under the query's attention, [B, H, Q, D]."""
        masses = _cluster_masses(query, summary, scale)
        weights = group_heads(masses.softmax(-1), summary.key.shape[0])
        return _mass(masses, summary, bulk_size), times_by_head(weights, summary.value).flatten(1, 2)


def _mass(masses: Tensor, summary: ClusterSummary, bulk_size: Tensor) -> Tensor:
    """Add up the clusters' log masses, [B, H, Q, C], for the true number of keys, [Q] or [H, Q]: [B, H, Q]."""
    summarised = summary.log_count.repeat_interleave(masses.shape[1] // len(summary.size))
    return masses.logsumexp(-1) + bulk_size.to(masses.dtype).log() - summarised[:, None]


def _cluster_masses(query: Tensor, summary: ClusterSummary, scale: float) -> Tensor:
    """Return the log mass of every cluster, [B, H, Q, C]."""
    grouped = group_heads(precise(query), summary.key.shape[0]).to(summary.key.dtype)
    mean = times_by_head(grouped, summary.key.transpose(1, 2)) * scale
    if summary.covariance.ndim == 2:
        turned = grouped * summary.covariance[:, None, None]
    else:
        turned = times_by_head(grouped, summary.covariance)
    variance = (turned * grouped).sum(-1, keepdim=True).clamp(min=0) * scale**2
    masses = summary.log_size[:, None, None] + mean + variance * summary.spread[:, None, None] / 2
    return masses.flatten(1, 2)


def with_stand_in(size: Tensor, weight: float) -> Tensor:
    """Return sizes [K, C], with one key of score zero and this weight in a bulk without keys, as a Gaussian has it."""
    return size + pad(weight * (size.sum(1, keepdim=True) == 0), (0, size.shape[1] - 1))


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Clusters:
    """Make the estimator."""
    return Clusters(spec["name"], spec["clusters"], spec["covariance"], spec["bits"])
