"""Summaries of the bulk as the decoding kernels read them: clusters, of which a Gaussian is one.

A sequence has one summary, or one of each part of its KV heads where these share their outliers.

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
from headscope.kernels.layer import Means, Rest

Together = Callable[[list[Tensor]], Tensor]
"""`torch.stack`, a sequence after the other, or `torch.cat`, a KV head after the other."""
NO_KEY = 1e-6
"""Size of a cluster that stands for a bulk without keys."""


def means_of(summaries: Sequence[ClusterSummary], together: Together = torch.stack) -> Means:
    """What streaming clusters need besides, one summary a sequence."""
    return _means([Means(*summary.exact, summary.metric) for summary in summaries], together)


def means_of_parts(sequences: Sequence[Sequence[ClusterSummary]]) -> Means:
    """The same from the summaries of each sequence's parts."""
    return _means([means_of(parts, torch.cat) for parts in sequences], torch.stack)


def rest_of(estimator: Estimator, summaries: Sequence[Any], dtype: torch.dtype) -> Rest:
    """The summaries of one layer, one a sequence, with vectors in the model's dtype.

    Raises:
        ConfigError: the kernels do not serve this estimator.
    """
    read = _reader(estimator)
    return _rest([read(summary) for summary in summaries], dtype, torch.stack)


def rest_of_parts(estimator: Estimator, sequences: Sequence[Sequence[Any]], dtype: torch.dtype) -> Rest:
    """The same from the summaries of each sequence's parts.

    Raises:
        ConfigError: the kernels do not serve this estimator.
    """
    read = _reader(estimator)
    wholes = [_rest([read(part) for part in parts], dtype, torch.cat) for parts in sequences]
    return _rest(wholes, dtype, torch.stack)


def _reader(estimator: Estimator) -> Callable[[Any], Rest]:
    """What turns a summary of some KV heads into a `Rest` without a first dimension of sequences."""
    if isinstance(estimator, Clusters):
        return _of_clusters
    if isinstance(estimator, Gaussian) and not estimator.capped and estimator.rank is None:
        return partial(_of_gaussian, estimator)
    raise ConfigError(
        f"estimator {estimator.name!r} has no kernel; choose clusters, or a Gaussian that is neither capped nor of"
        " low rank nor with values that vary with the keys"
    )


def _of_clusters(summary: ClusterSummary) -> Rest:
    # What stands for a bulk without keys does so until a key joins.
    return Rest(with_stand_in(summary.size, NO_KEY), summary.key, summary.value, summary.covariance, summary.spread)


def _of_gaussian(estimator: Gaussian, summary: GaussianSummary) -> Rest:
    if summary.values.covariance is not None:
        raise ConfigError(f"estimator {estimator.name!r}: values that vary with the keys have no kernel; values: mean")
    mean, covariance = summary.moments.mean, summary.moments.covariance
    if estimator.covariance != "full":
        covariance = covariance.diagonal(dim1=1, dim2=2) * (estimator.covariance == "diagonal")
    one = mean.new_ones(len(mean), 1)
    return Rest(one, mean[:, None], summary.values.value[:, None], covariance, one)


def _rest(parts: Sequence[Rest], dtype: torch.dtype, together: Together) -> Rest:
    """All parts together; one with fewer clusters has empty ones behind them."""
    found = {part.name: [getattr(of, part.name) for of in parts] for part in fields(Rest)}
    vectors = {name: _together(found[name], together, -2).to(dtype) for name in ("keys", "values")}
    numbers = {name: _together(found[name], together, -1).float() for name in ("size", "spread")}
    covariance = together(found["covariance"]).to(dtype)
    return Rest(**{name: x.contiguous() for name, x in {**vectors, **numbers, "covariance": covariance}.items()})


def _means(parts: Sequence[Means], together: Together) -> Means:
    keys, values = (_together([getattr(part, name) for part in parts], together, -2) for name in ("keys", "values"))
    return Means(keys.float(), values.float(), together([part.metric for part in parts]).float())


def _together(parts: Sequence[Tensor], together: Together, clusters: int) -> Tensor:
    """Put tensors together whose dimension of clusters, counted from the last, may differ: zeros behind fewer ones."""
    most, behind = max(part.shape[clusters] for part in parts), [0] * (-2 * clusters - 2)
    return together([pad(part, (*behind, 0, most - part.shape[clusters])) for part in parts])
