"""What the decoding kernels are given of a criterion: its rule, and summaries of the bulk as clusters.

A Gaussian is one cluster. What the kernels cannot express is served by plain torch (`plain_decode`).

Shapes: B sequences, H query heads, K KV heads, C clusters, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.boundary_state import STREAMING
from headscope.heads.calibration.maps import LayerMap
from headscope.heads.criteria import Criterion
from headscope.heads.criteria.lost_output import LostOutput
from headscope.heads.criteria.qada import Qada
from headscope.heads.decision import GROUP
from headscope.heads.estimators.clusters import Clusters, ClusterSummary, with_stand_in
from headscope.heads.estimators.gaussian import Gaussian, GaussianSummary
from headscope.kernels.common.layer import BulkSummary, ClusterMeans, DecisionRule

NO_KEY = 1e-6
"""Size of a cluster that stands for a bulk without keys."""


def kernels_express(criterion: Criterion) -> bool:
    """Return True if the decoding kernels decide as the criterion does: by clusters or a Gaussian."""
    estimator = criterion.estimator
    if type(criterion) not in (LostOutput, Qada):
        return False
    if isinstance(estimator, Gaussian):  # a kernel for keys that join a Gaussian does not exist
        return criterion.summaries != STREAMING and estimator.moments is None
    return isinstance(estimator, Clusters)


def decision_rule(criterion: Criterion, layer: int, rows: int, heads: int, device: torch.device) -> DecisionRule:
    """Return the rule of a layer for B rows of H heads under a criterion of one row."""
    slope, offset = _line(criterion.map.layers.get(layer), heads, device)
    thresholds = criterion.thresholds.to(device, torch.float32).expand(rows, heads).contiguous()
    return DecisionRule(thresholds, slope, offset, isinstance(criterion, LostOutput), criterion.unit == GROUP)


def _line(line: LayerMap | None, heads: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return slope and offset of each head's line, float32 [H] each; without a map the margin itself."""
    if line is None:
        one = torch.ones(heads, dtype=torch.float32, device=device)
        return one, torch.zeros_like(one)
    return line.slope.to(device, torch.float32), line.offset.to(device, torch.float32)


def cluster_means(criterion: Criterion, summaries: Sequence[Any]) -> ClusterMeans | None:
    """Return what streaming clusters need besides, from one summary a sequence; None if the summaries stay."""
    if not isinstance(criterion.estimator, Clusters) or criterion.summaries != STREAMING:
        return None
    keys, values = (_stacked(list(of), -2) for of in zip(*(summary.exact for summary in summaries), strict=True))
    return ClusterMeans(keys.float(), values.float(), torch.stack([summary.metric for summary in summaries]).float())


def bulk_summary(criterion: Criterion, summaries: Sequence[Any], dtype: torch.dtype) -> BulkSummary:
    """Put the summaries of one layer, one a sequence, side by side, with vectors in the model's dtype.

    A sequence with fewer clusters than others has empty ones behind them.
    """
    parts = [_as_clusters(criterion.estimator, summary) for summary in summaries]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(BulkSummary)}
    vectors = {name: _stacked(columns[name], -2).to(dtype) for name in ("keys", "values")}
    numbers = {name: _stacked(columns[name], -1).float() for name in ("size", "spread")}
    covariance = torch.stack(columns["covariance"]).to(dtype)
    together = {**vectors, **numbers, "covariance": covariance}
    return BulkSummary(**{name: x.contiguous() for name, x in together.items()})


def _as_clusters(estimator: Any, summary: ClusterSummary | GaussianSummary) -> BulkSummary:
    """Return the summary of one sequence, without a dimension of sequences."""
    if isinstance(summary, ClusterSummary):
        # What stands for a bulk without keys does so until a key joins.
        size = with_stand_in(summary.size, NO_KEY)
        return BulkSummary(size, summary.key, summary.value, summary.covariance, summary.spread)
    mean, covariance = summary.moments.mean, summary.moments.covariance
    if estimator.covariance == "diagonal":
        covariance = covariance.diagonal(dim1=1, dim2=2)
    one = mean.new_ones(len(mean), 1)
    return BulkSummary(one, mean[:, None], summary.value[:, None], covariance, one)


def _stacked(parts: Sequence[Tensor], clusters: int) -> Tensor:
    """Stack tensors whose dimension of clusters, counted from the last, may differ: zeros behind fewer ones."""
    most, behind = max(part.shape[clusters] for part in parts), [0] * (-2 * clusters - 2)
    return torch.stack([pad(part, (*behind, 0, most - part.shape[clusters])) for part in parts])
