"""Percentile bootstrap over prompts, stratified by task and paired: all columns share the resampled prompts.

Shapes: P prompts, B resamples, C columns (criteria, thresholds, bins, ...). A mean is the mean over tasks of their
prompts' mean, so weights turn every statistic of means into one matrix product.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 95.0
METHOD = "95 % intervals: percentile bootstrap over prompts, {resamples:,} resamples, stratified by task"


def equal_weights(tasks: Sequence[str]) -> Floats:
    """Weights of the mean over tasks, [P]; `tasks` names each prompt's task."""
    _, codes, counts = np.unique(np.asarray(tasks), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(counts) * counts[codes]))


def resampled_weights(tasks: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Weights of resampled means, [B, P]: each task's prompts are drawn with replacement from that task alone."""
    names = np.asarray(tasks)
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(names)))
    strata = np.unique(names)
    for task in strata:
        members = np.flatnonzero(names == task)
        drawn = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
        weights[:, members] = drawn / (len(members) * len(strata))
    return weights


def interval(draws: ArrayLike) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95 % percentile interval of each column of `draws`, [B, C] to twice [C]."""
    low, high = np.percentile(np.asarray(draws), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return low, high
