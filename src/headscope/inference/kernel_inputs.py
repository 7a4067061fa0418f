"""Summaries of the bulk as the decoding kernels read them: clusters, of which a Gaussian is one.

Shapes: B sequences, K KV heads, C clusters, D head_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.errors import ConfigError
from headscope.heads.estimators import Estimator
from headscope.heads.estimators.clusters import Clusters, ClusterSummary, with_stand_in
from headscope.heads.estimators.gaussian import Gaussian, GaussianSummary
from headscope.kernels.common.layer import BulkSummary, ClusterMeans

NO_KEY = 1e-6
"""Size of a cluster that stands for a bulk without keys."""


def means_of(summaries: Sequence[ClusterSummary]) -> ClusterMeans:
    """What streaming clusters need besides, one summary a sequence."""
    keys, values = (_stacked(list(of), -2) for of in zip(*(summary.exact for summary in summaries), strict=True))
    return ClusterMeans(keys.float(), values.float(), torch.stack([summary.metric for summary in summaries]).float())


def rest_of(estimator: Estimator, summaries: Sequence[Any], dtype: torch.dtype) -> BulkSummary:
    """The summaries of one layer, one a sequence, with vectors in the model's dtype.

    One with fewer clusters than others has empty ones behind them.

    Raises:
        ConfigError: the kernels do not serve this estimator.
    """
    read = _reader(estimator)
    parts = [read(summary) for summary in summaries]
    found = {part.name: [getattr(of, part.name) for of in parts] for part in fields(BulkSummary)}
    vectors = {name: _stacked(found[name], -2).to(dtype) for name in ("keys", "values")}
    numbers = {name: _stacked(found[name], -1).float() for name in ("size", "spread")}
    covariance = torch.stack(found["covariance"]).to(dtype)
    return BulkSummary(**{name: x.contiguous() for name, x in {**vectors, **numbers, "covariance": covariance}.items()})


def _reader(estimator: Estimator) -> Callable[[Any], BulkSummary]:
    """What turns a summary into a `BulkSummary` without a first dimension of sequences."""
    if isinstance(estimator, Clusters):
        return _of_clusters
    if isinstance(estimator, Gaussian):
        return partial(_of_gaussian, estimator)
    raise ConfigError(f"estimator {estimator.name!r} has no kernel; choose clusters or a Gaussian")


def _of_clusters(summary: ClusterSummary) -> BulkSummary:
    # What stands for a bulk without keys does so until a key joins.
    return BulkSummary(
        with_stand_in(summary.size, NO_KEY), summary.key, summary.value, summary.covariance, summary.spread
    )


def _of_gaussian(estimator: Gaussian, summary: GaussianSummary) -> BulkSummary:
    mean, covariance = summary.moments.mean, summary.moments.covariance
    if estimator.covariance != "full":
        covariance = covariance.diagonal(dim1=1, dim2=2) * (estimator.covariance == "diagonal")
    one = mean.new_ones(len(mean), 1)
    return BulkSummary(one, mean[:, None], summary.value[:, None], covariance, one)


def _stacked(parts: Sequence[Tensor], clusters: int) -> Tensor:
    """Stack tensors whose dimension of clusters, counted from the last, may differ: zeros behind fewer ones."""
    most, behind = max(part.shape[clusters] for part in parts), [0] * (-2 * clusters - 2)
    return torch.stack([pad(part, (*behind, 0, most - part.shape[clusters])) for part in parts])
