"""Thresholds and static rankings from the margins of calibration prompts.

Shapes: N rows (layer, query) of one prompt, L layers, H query heads. Log-odds of the local share are L_local - L_bulk;
a pair is local iff its log-odds reach the threshold. Every prompt weighs the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headscope.errors import ConfigError

Floats = NDArray[np.floating[Any]]


def threshold_for(log_odds: Sequence[Floats], sparsity: float) -> float:
    """Return one threshold for all heads: the largest at which at least `sparsity` of the pairs are local.

    Args:
        log_odds: of each prompt, [N, H].
        sparsity: wanted mean over prompts of the share of local pairs, in (0, 1).

    Raises:
        ConfigError: no prompt has a pair.
    """
    # A NaN pair reads its bulk whatever the threshold, as the criteria do.
    prompts = [np.nan_to_num(odds.ravel(), nan=-np.inf) for odds in log_odds if odds.size]
    if not prompts:
        raise no_pairs()
    values = np.concatenate(prompts)
    weights = np.concatenate([np.full(odds.size, 1 / (odds.size * len(prompts))) for odds in prompts])
    order = np.argsort(-values, kind="stable")
    reached = int(np.searchsorted(np.cumsum(weights[order]), sparsity * (1 - 1e-12)))
    return float(values[order[min(reached, len(order) - 1)]])


def bulk_share(log_odds: Floats) -> Floats:
    """Return the share of the mass outside the window, the shape of the log-odds; float64."""
    with np.errstate(over="ignore"):
        share: Floats = 1 / (1 + np.exp(log_odds.astype(np.float64)))
    return share


def no_pairs() -> ConfigError:
    """Return the error of a calibration without any pair to fit."""
    return ConfigError("calibration found no query with a bulk; lower window.recent or use longer prompts")


def head_means(values: Sequence[NDArray[Any]], layers: Sequence[NDArray[np.integer[Any]]]) -> tuple[list[int], Floats]:
    """Return the mean over queries, then over prompts, of each head: the layers' indices and [L, H].

    Args:
        values: of each prompt, [N, H].
        layers: layer of each row, [N], of each prompt.
    """
    indices = sorted({int(layer) for rows in layers for layer in np.unique(rows)})
    means = [
        np.stack([value[rows == layer].mean(0) for layer in indices])
        for value, rows in zip(values, layers, strict=True)
    ]
    return indices, np.mean(means, axis=0)


def static_labels(long_share: Floats, lost_mass: Floats, sparsity: float) -> NDArray[np.bool_]:
    """Label the heads with the largest long share long, [L, H], so that `sparsity` of the heads stay local.

    Args:
        long_share: mean oracle label of each head, [L, H]; positive is long.
        lost_mass: mean bulk share of each head, [L, H]; orders heads of equal long share.
        sparsity: share of local heads, in (0, 1).
    """
    heads = long_share.size
    order = np.lexsort((-lost_mass.ravel(), -long_share.ravel()))
    labels = np.zeros(heads, dtype=bool)
    labels[order[: heads - round(sparsity * heads)]] = True
    return labels.reshape(long_share.shape)
