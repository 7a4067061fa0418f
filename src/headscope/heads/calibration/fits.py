"""Fits of each head's margins to the exact ones: a threshold for all heads then compares like with like.

Better agreement is not better generation: offset, slope, logistic and isotonic pull a head that is rarely needed to its
base rate (docs/LOG.md says what mean log offsets did); they are controls. A global offset or slope is not here: with
one threshold for all heads it changes no ranking, so no label at any sparsity.

Shapes: N rows (layer, query) of one prompt, n rows of one layer of all prompts, L layers, H query heads, K knots.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headscope.heads.calibration.maps import LayerMap, MarginMap, affine
from headscope.heads.calibration.thresholds import energy_weights

KNOTS = 32
RIDGE = 1.0
"""Weight of the squared logistic coefficients against that of one pair: a head with one label stays finite."""
STEPS = 50

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class _Pairs:
    """Pairs of one layer, [n, H] each, float64.

    Attributes:
        margin: as the criterion sees it.
        exact: what it should have been.
        weight: the same sum for every prompt; 0, as both margins, where one of them is not finite.
    """

    margin: Floats
    exact: Floats
    weight: Floats

    def mean(self, values: Floats) -> Floats:
        """Weighted mean over a head's pairs, [H]; 0 for a head without any."""
        total = self.weight.sum(0)
        return np.asarray((self.weight * values).sum(0) / np.where(total > 0, total, 1))


def fit(
    name: str,
    margins: Sequence[Floats],
    exact: Sequence[Floats],
    layers: Sequence[NDArray[np.integer[Any]]],
    local: float,
) -> MarginMap:
    """Fit every head's map on calibration prompts, all of which weigh the same.

    Args:
        name: none, energy (of losses, `energy_weights`), or one of FITS.
        margins: as the criterion sees them, of each prompt, [N, H].
        exact: exact margins of the same kind, of each prompt, [N, H].
        layers: layer of each row, [N], of each prompt.
        local: exact margin from which on a pair counts as local for logistic.
    """
    if name == "none":
        return MarginMap({})
    if name == "energy":
        indices, logs = energy_weights([-e for e in exact], [-m for m in margins], layers)
        return MarginMap({layer: _line(np.ones_like(log), -log) for layer, log in zip(indices, logs, strict=True)})
    indices = sorted({int(layer) for rows in layers for layer in np.unique(rows)})
    return MarginMap({layer: FITS[name](_pairs(margins, exact, layers, layer), local) for layer in indices})


def _pairs(
    margins: Sequence[Floats], exact: Sequence[Floats], layers: Sequence[NDArray[np.integer[Any]]], layer: int
) -> _Pairs:
    rows = [found == layer for found in layers]
    margin = np.concatenate([m[r] for m, r in zip(margins, rows, strict=True)]).astype(np.float64)
    truth = np.concatenate([e[r] for e, r in zip(exact, rows, strict=True)]).astype(np.float64)
    known = np.isfinite(margin) & np.isfinite(truth)
    weight = np.concatenate([np.full(int(r.sum()), 1 / max(int(r.sum()), 1)) for r in rows])
    weight *= len(weight) / weight.sum()
    return _Pairs(np.where(known, margin, 0), np.where(known, truth, 0), known * weight[:, None])


def _line(slope: Floats, offset: Floats) -> LayerMap:
    return affine(torch.from_numpy(slope), torch.from_numpy(offset))


def _offset(pairs: _Pairs, local: float) -> LayerMap:
    """Mean difference."""
    offset = pairs.mean(pairs.exact - pairs.margin)
    return _line(np.ones_like(offset), offset)


def _slope(pairs: _Pairs, local: float) -> LayerMap:
    """Least squares; a head whose margins are all the same keeps the slope 1."""
    x, y = pairs.mean(pairs.margin), pairs.mean(pairs.exact)
    variance = pairs.mean((pairs.margin - x) ** 2)
    covariance = pairs.mean((pairs.margin - x) * (pairs.exact - y))
    slope = np.divide(covariance, variance, out=np.ones_like(x), where=variance > 0)
    return _line(slope, y - slope * x)


def _logistic(pairs: _Pairs, local: float) -> LayerMap:
    """Log-odds of being local by logistic regression on the standardised margin, by Newton's method."""
    mean = pairs.mean(pairs.margin)
    spread = np.sqrt(pairs.mean((pairs.margin - mean) ** 2))
    spread = np.where(spread > 0, spread, 1)
    features = np.stack([np.ones_like(pairs.margin), (pairs.margin - mean) / spread], axis=-1)
    found = np.zeros((len(mean), 2))
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip((features * found).sum(-1), -500, 500)))
        gradient = np.einsum("nh,nhi->hi", pairs.weight * (chance - (pairs.exact >= local)), features) + RIDGE * found
        curvature = np.einsum("nh,nhi,nhj->hij", pairs.weight * chance * (1 - chance), features, features)
        found -= np.linalg.solve(curvature + RIDGE * np.eye(2), gradient[..., None])[..., 0]
    slope = found[:, 1] / spread
    known = pairs.weight.sum(0) > 0
    return _line(np.where(known, slope, 1), np.where(known, found[:, 0] - slope * mean, 0))


def _isotonic(pairs: _Pairs, local: float) -> LayerMap:
    """Monotone regression of the exact margins, clipped at the ends: pairs beyond them tie and pass together."""
    lines = [_monotone_line(*head) for head in zip(pairs.margin.T, pairs.exact.T, pairs.weight.T, strict=True)]
    knots, values = (torch.from_numpy(np.stack(part)) for part in zip(*lines, strict=True))
    return LayerMap(knots, values, torch.from_numpy((pairs.weight.sum(0) == 0).astype(np.float64)))


def _monotone_line(margin: Floats, exact: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Knots and values of one head from [n] pairs, [K] each: mean points of equally heavy bins, made monotone."""
    order = np.argsort(margin, kind="stable")
    order = order[weight[order] > 0]
    if not len(order):
        return np.zeros(KNOTS), np.zeros(KNOTS)
    share = (np.cumsum(weight[order]) - weight[order] / 2) / weight[order].sum()
    bins = np.unique((share * KNOTS).astype(int), return_inverse=True)[1]
    heavy = np.bincount(bins, weight[order]).astype(np.float64)
    knots, values = (np.asarray(np.bincount(bins, (weight * part)[order]) / heavy) for part in (margin, exact))
    missing = (0, KNOTS - len(knots))
    return np.pad(knots, missing, mode="edge"), np.pad(monotone(values, heavy), missing, mode="edge")


def monotone(values: Floats, weights: Floats) -> Floats:
    """Weighted least squares among non-decreasing sequences, [K] (what pooling adjacent violators finds).

    By its formula max over j <= i of min over k >= i of the mean of j..k: K is small.
    """
    heavy, total = (np.concatenate([[0.0], np.cumsum(part)]) for part in (weights, weights * values))
    first, last = np.ogrid[: len(values), : len(values)]
    spans = np.where(last >= first, heavy[None, 1:] - heavy[:-1, None], 1)
    means = np.where(last >= first, (total[None, 1:] - total[:-1, None]) / spans, np.inf)
    least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.where(first <= last, least, -np.inf).max(0))


FITS: dict[str, Callable[[_Pairs, float], LayerMap]] = {
    "offset": _offset,
    "slope": _slope,
    "logistic": _logistic,
    "isotonic": _isotonic,
}
