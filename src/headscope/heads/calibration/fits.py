"""Fit each head's margins to the exact ones: a threshold for all heads then compares like with like.

Better agreement is not better generation: `logistic` pulls a head that is rarely needed to its base rate and is the
negative control (docs/LOG.md). A global offset or slope is no fit: with one threshold for all heads it changes no
ranking, so no label at any sparsity.

Shapes: N rows (layer, query) of one prompt, n rows of one layer of all prompts, H query heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.calibration.maps import LayerMap, MarginMap
from headscope.heads.calibration.thresholds import energy_weights

RIDGE = 1.0
"""Weight of the squared logistic coefficients against that of one pair: a head with one label stays finite."""
STEPS = 50

Floats = NDArray[np.floating[Any]]
Layers = Sequence[NDArray[np.integer[Any]]]


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one layer, [n, H] each, float64.

    Attributes:
        margin: as the criterion computes it.
        exact: what it should be.
        weight: the same sum for every prompt; 0, as both margins, where one of them is not finite.
    """

    margin: Floats
    exact: Floats
    weight: Floats

    def mean(self, values: Floats) -> Floats:
        """Return the weighted mean over a head's pairs, [H]; 0 for a head without any."""
        total = self.weight.sum(0)
        return np.asarray((self.weight * values).sum(0) / np.where(total > 0, total, 1))


def fit(name: str, margins: Sequence[Floats], exact: Sequence[Floats], layers: Layers, local: float) -> MarginMap:
    """Fit every head's line on calibration prompts, all of which weigh the same.

    Args:
        name: `none`; `energy`, for margins that are negative log losses (`energy_weights`); or `logistic`.
        margins: as the criterion computes them, of each prompt, [N, H].
        exact: exact margins of the same kind, of each prompt, [N, H].
        layers: layer of each row, [N], of each prompt.
        local: exact margin from which on a pair counts as local for `logistic`.
    """
    if name == "none":
        return MarginMap({})
    if name == "energy":
        indices, logs = energy_weights([-e for e in exact], [-m for m in margins], layers)
        return MarginMap({layer: _line(np.ones_like(log), -log) for layer, log in zip(indices, logs, strict=True)})
    indices = sorted({int(layer) for rows in layers for layer in np.unique(rows)})
    return MarginMap({layer: _logistic(_pairs(margins, exact, layers, layer), local) for layer in indices})


def _line(slope: Floats, offset: Floats) -> LayerMap:
    return LayerMap(*(torch.from_numpy(part.astype(np.float64)) for part in (slope, offset)))


def _pairs(margins: Sequence[Floats], exact: Sequence[Floats], layers: Layers, layer: int) -> _Pairs:
    rows = [indices == layer for indices in layers]
    margin = np.concatenate([m[r] for m, r in zip(margins, rows, strict=True)]).astype(np.float64)
    truth = np.concatenate([e[r] for e, r in zip(exact, rows, strict=True)]).astype(np.float64)
    known = np.isfinite(margin) & np.isfinite(truth)
    weight = np.concatenate([np.full(int(r.sum()), 1 / max(int(r.sum()), 1)) for r in rows])
    weight *= len(weight) / weight.sum()
    return _Pairs(np.where(known, margin, 0), np.where(known, truth, 0), known * weight[:, None])


def _logistic(pairs: _Pairs, local: float) -> LayerMap:
    """Fit the log-odds of being local by logistic regression on the standardised margin, with Newton's method."""
    mean = pairs.mean(pairs.margin)
    spread = np.sqrt(pairs.mean((pairs.margin - mean) ** 2))
    spread = np.where(spread > 0, spread, 1)
    features = np.stack([np.ones_like(pairs.margin), (pairs.margin - mean) / spread], axis=-1)
    weights = np.zeros((len(mean), 2))
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip((features * weights).sum(-1), -500, 500)))
        gradient = np.einsum("nh,nhi->hi", pairs.weight * (chance - (pairs.exact >= local)), features) + RIDGE * weights
        curvature = np.einsum("nh,nhi,nhj->hij", pairs.weight * chance * (1 - chance), features, features)
        weights -= np.linalg.solve(curvature + RIDGE * np.eye(2), gradient[..., None])[..., 0]
    slope = weights[:, 1] / spread
    known = pairs.weight.sum(0) > 0
    return _line(np.where(known, slope, 1), np.where(known, weights[:, 0] - slope * mean, 0))
