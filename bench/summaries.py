"""Summaries of the bulk that adaptive decoding is timed with: what an estimator holds, of random keys.

Shapes: B sequences, H query heads, K KV heads, T keys, M outliers, C clusters, D head_dim.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headscope.heads.window import Window
from headscope.kernels.common.layer import BulkSummary, Cache, ClusterMeans, DecisionRule, OutlierKeys
from headscope.kernels.decode.update_clusters import update_clusters

CLUSTERS, OUTLIERS = 16, 340
"""Of the default adaptive criterion, for each KV head."""
SUMMARIES = ["gaussian", "diagonal", "clusters", "lost_output", "updated"]
"""A full Gaussian (QAdA); its diagonal; clusters with one diagonal; these, outliers in the window and the loss of the
output; the same, and at every step the key that leaves the window joins a cluster."""


@dataclass(frozen=True)
class Summary:
    """What a decoding step is given besides queries and keys.

    Attributes:
        summary: of the bulk.
        outliers: in the window of local heads.
        means: of clusters that are updated at every step.
        options: of the rule.
    """

    summary: BulkSummary
    outliers: OutlierKeys | None
    means: ClusterMeans | None
    options: dict[str, bool]

    def rule(self, rule: DecisionRule) -> DecisionRule:
        """The rule with this summary's options."""
        return replace(rule, **self.options)

    def size(self) -> int:
        """Bytes that a decision reads of it."""
        parts = [*vars(self.summary).values(), *([] if self.outliers is None else vars(self.outliers).values())]
        return sum(part.nbytes for part in parts)

    def update(self, cache: Cache, window: Window) -> None:
        """What precedes each decision."""
        if self.means is not None:
            update_clusters(cache, self.summary, self.means, window.sink, window.recent)


def summary(name: str, key: Tensor, value: Tensor, window: Window) -> Summary:
    """One of SUMMARIES of keys and values [B, K, T, D]; clusters are of neighbours, outliers evenly spread."""
    bulk = slice(window.sink, key.shape[2] - window.recent)
    keys, values = key[:, :, bulk], value[:, :, bulk]
    clusters = 1 if name in ("gaussian", "diagonal") else CLUSTERS
    covariance = _covariance(keys)
    if name != "gaussian":
        covariance = covariance.diagonal(dim1=2, dim2=3)
    centres, mean_values = (_means(x, clusters) for x in (keys, values))
    ones = torch.ones(centres.shape[:3], device=key.device)
    size = ones * (keys.shape[2] / clusters)
    bulk_summary = BulkSummary(
        size, centres.to(key.dtype), mean_values.to(key.dtype), covariance.to(key.dtype).contiguous(), ones
    )
    if clusters == 1 or name == "clusters":
        return Summary(bulk_summary, None, None, {})
    metric = torch.eye(key.shape[3], device=key.device).repeat(*key.shape[:2], 1, 1)
    means = ClusterMeans(centres, mean_values, metric) if name == "updated" else None
    return Summary(bulk_summary, _outliers(keys, values), means, {"lost_output": True})


def _covariance(keys: Tensor) -> Tensor:
    """Of keys [B, K, T, D] in single precision, one sequence after the other: [B, K, D, D]."""
    return torch.stack([torch.stack([head.float().T.cov(correction=0) for head in row]) for row in keys])


def _means(x: Tensor, clusters: int) -> Tensor:
    """ClusterMeans of as many runs of neighbours, [B, K, C, D], float32."""
    return torch.stack([part.mean(2, dtype=torch.float32) for part in x.tensor_split(clusters, 2)], 2)


def _outliers(keys: Tensor, values: Tensor) -> OutlierKeys:
    at = torch.linspace(0, keys.shape[2] - 1, min(OUTLIERS, keys.shape[2]), device=keys.device).long()
    count = torch.full(keys.shape[:2], len(at), dtype=torch.int32, device=keys.device)
    return OutlierKeys(keys[:, :, at].contiguous(), values[:, :, at].contiguous(), count)
