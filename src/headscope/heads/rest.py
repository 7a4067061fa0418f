"""Summaries of the bulk as the decoding kernels read them: clusters, of which a Gaussian is one.

Shapes: B sequences, K KV heads, C clusters, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.errors import ConfigError
from headscope.heads.estimators import Estimator
from headscope.heads.estimators.clusters import Clusters, ClusterSummary
from headscope.heads.estimators.gaussian import Gaussian, GaussianSummary
from headscope.kernels.join import Means
from headscope.kernels.layer import Rest

NO_KEY = 1e-6
"""Size of a cluster that stands for a bulk without keys."""


def means_of(summaries: Sequence[ClusterSummary]) -> Means:
    """What streaming clusters need besides, one summary a sequence."""
    most = max(summary.size.shape[1] for summary in summaries)
    pairs = [[pad(x, (0, 0, 0, most - x.shape[1])) for x in summary.exact] for summary in summaries]
    keys, values = (torch.stack(parts).float() for parts in zip(*pairs, strict=True))
    return Means(keys, values, torch.stack([summary.metric for summary in summaries]).float())


def rest_of(estimator: Estimator, summaries: Sequence[Any], dtype: torch.dtype) -> Rest:
    """The summaries of one layer, one a sequence, with vectors in the model's dtype.

    Raises:
        ConfigError: the kernels do not serve this estimator.
    """
    if isinstance(estimator, Clusters):
        found = [_of_clusters(summary) for summary in summaries]
    elif isinstance(estimator, Gaussian) and not estimator.capped and estimator.rank is None:
        found = [_of_gaussian(estimator, summary) for summary in summaries]
    else:
        raise ConfigError(
            f"estimator {estimator.name!r} has no kernel; choose clusters, or a Gaussian that is neither capped nor of"
            " low rank nor with values that vary with the keys"
        )
    return _stacked(found, dtype)


def _of_clusters(summary: ClusterSummary) -> Rest:
    # Where no key was seen, one of score zero stands for the bulk, as the estimator has it, until a key joins.
    size = summary.size + NO_KEY * (summary.size.sum(1, keepdim=True) == 0)
    return Rest(size, summary.key, summary.value, summary.covariance, summary.spread)


def _of_gaussian(estimator: Gaussian, summary: GaussianSummary) -> Rest:
    if summary.values.covariance is not None:
        raise ConfigError(f"estimator {estimator.name!r}: values that vary with the keys have no kernel; values: mean")
    mean, covariance = summary.moments.mean, summary.moments.covariance
    if estimator.covariance != "full":
        covariance = covariance.diagonal(dim1=1, dim2=2) * (estimator.covariance == "diagonal")
    one = mean.new_ones(len(mean), 1)
    return Rest(one, mean[:, None], summary.values.value[:, None], covariance, one)


def _stacked(parts: Sequence[Rest], dtype: torch.dtype) -> Rest:
    """All sequences together; one with fewer clusters has empty ones behind them."""
    most = max(part.size.shape[1] for part in parts)

    def stack(name: str) -> Tensor:
        found = [getattr(part, name) for part in parts]
        if name == "covariance":
            return torch.stack(found).to(dtype).contiguous()
        if name in ("keys", "values"):
            return torch.stack([pad(x, (0, 0, 0, most - x.shape[1])) for x in found]).to(dtype).contiguous()
        return torch.stack([pad(x, (0, most - x.shape[1])) for x in found]).float().contiguous()

    return Rest(**{part.name: stack(part.name) for part in fields(Rest)})
