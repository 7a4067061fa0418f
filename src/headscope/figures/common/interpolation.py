"""Scores at equal sparsity, interpolated on the line through dense and a criterion's own points.

Shapes: B resamples, C columns (criterion, target), A sparsities. Row 0 of [1 + B, ...] is the data itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headscope.figures.common import scores
from headscope.figures.common.bootstrap import Floats

SPARSITIES = (0.65, 0.8, 0.9, 0.95)
"""Sparsities that criteria are compared at."""


@dataclass(frozen=True)
class InterpolatedScores:
    """Scores of the same resampled prompts at the same sparsities.

    Attributes:
        dense: score of dense, [1 + B].
        criteria: score by criterion, [1 + B, A]; NaN beyond the criterion's highest sparsity.
    """

    dense: Floats
    criteria: dict[str, Floats]

    def shares(self, criterion: str) -> Floats:
        """Return scores as shares of dense on the same resample, their mean last, [1 + B, A + 1]; NaN if dense is 0."""
        values = self.criteria[criterion]
        dense = np.where(self.dense > 0, self.dense, np.nan)
        return np.asarray(np.column_stack([values, values.mean(1)]) / dense[:, None])

    def difference(self, criterion: str, baseline: str) -> Floats:
        """Return the paired difference of the means over the sparsities, in points, [1 + B]."""
        return np.asarray(self.criteria[criterion].mean(1) - self.criteria[baseline].mean(1))


def interpolate(rows: pd.DataFrame, sparsities: Sequence[float], resamples: int) -> InterpolatedScores:
    """Interpolate the scores of one length in the data and in each resample of its prompts.

    Args:
        rows: evaluation rows of the tasks to average over, dense among them.
        sparsities: where to interpolate, [A].
        resamples: B.
    """
    sampled = scores.resample(rows, resamples)
    values, sparsity = sampled.weights @ sampled.values, sampled.weights @ sampled.sparsity
    dense = values[:, sampled.columns.index(("dense", 0.0))]
    criteria = {}
    for criterion in {name: None for name, target in sampled.columns if target}:  # dense and local have no target
        own = [column for column, (name, _) in enumerate(sampled.columns) if name == criterion]
        criteria[criterion] = _on_line(sparsity[:, own], values[:, own], dense, sparsities)
        # A mean of equal numbers is not exact.
        criteria[criterion][:, np.asarray(sparsities) > sparsity[0, own].max() + 1e-9] = np.nan
    return InterpolatedScores(dense, criteria)


def _on_line(sparsity: Floats, values: Floats, dense: Floats, at: Sequence[float]) -> Floats:
    """Interpolate from (0, dense) through the points, [1 + B, A]; a resample that ends short takes its last point."""
    x = np.column_stack([np.zeros(len(dense)), sparsity])
    y = np.column_stack([dense, values])
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    return np.stack([np.interp(at, *line) for line in zip(x, y, strict=True)])
