"""Scores that criteria keep at given sparsities, read off the line through dense and their own points.

Shapes: B resamples, C columns (criterion, target), A sparsities. Row 0 of all draws, [1 + B, ...], is the data itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.figures.common import bootstrap, scores

Floats = NDArray[np.float64]
AT = (0.65, 0.8, 0.9, 0.95)
"""Sparsities that criteria are compared at."""


@dataclass(frozen=True)
class Kept:
    """What is left of the score on the same resampled prompts.

    Attributes:
        dense: score of dense, [1 + B].
        points: score by criterion, [1 + B, A]; NaN beyond the criterion's highest sparsity.
    """

    dense: Floats
    points: dict[str, Floats]

    def shares(self, criterion: str) -> Floats:
        """Scores as shares of dense on the same resample, their mean last, [1 + B, A + 1]; NaN if dense scores 0."""
        points = self.points[criterion]
        dense = np.where(self.dense > 0, self.dense, np.nan)
        return np.asarray(np.column_stack([points, points.mean(1)]) / dense[:, None])

    def differences(self, criterion: str, baseline: str) -> Floats:
        """Paired difference of the means over the sparsities, in points, [1 + B]."""
        return np.asarray(self.points[criterion].mean(1) - self.points[baseline].mean(1))


def kept(rows: pd.DataFrame, at: Sequence[float], resamples: int, seed: int, slack: float = 0.0) -> Kept:
    """Interpolate the scores of one length in the data and in each resample of its prompts.

    Args:
        rows: evaluation rows of the tasks to average over, dense among them.
        at: sparsities, [A].
        resamples: B.
        seed: of the bootstrap.
        slack: a criterion that ends at most this far short of a sparsity takes its last point there.
    """
    found = scores.resample(rows, resamples, seed)
    weights = np.vstack([bootstrap.equal_weights(found.tasks), found.weights])
    values, sparsity = weights @ found.values, weights @ found.sparsity
    dense = values[:, found.columns.index(("dense", 0.0))]
    members: dict[str, list[int]] = {}
    for column, (name, target) in enumerate(found.columns):
        if target:  # dense and local have none
            members.setdefault(name, []).append(column)
    points = {name: _interpolated(sparsity[:, own], values[:, own], dense, at) for name, own in members.items()}
    for name, own in members.items():
        short = np.asarray(at) > sparsity[0, own].max() + slack + 1e-9  # a mean of equal numbers is not exact
        points[name][:, short] = np.nan
    return Kept(dense, points)


def _interpolated(sparsity: Floats, values: Floats, dense: Floats, at: Sequence[float]) -> Floats:
    """Linear from (0, dense) through the points, [1 + B, A]; a resample that ends short takes its last point."""
    x = np.column_stack([np.zeros(len(dense)), sparsity])
    y = np.column_stack([dense, values])
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    return np.stack([np.interp(at, *line) for line in zip(x, y, strict=True)])
