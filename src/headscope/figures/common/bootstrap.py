"""Percentile bootstrap over prompts, stratified by task and paired: all columns share the resampled prompts.

Shapes: P prompts, B resamples, C columns (criteria, thresholds, bins, ...). A mean is the mean over tasks of their
prompts' mean, so weights turn every statistic of means into one matrix product.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 10_000
"""Many, since the corrected intervals of a table with a hundred comparisons end at its 2,000th part."""
LEVEL = 95.0
CORRECTED = "corrected for the number of comparisons in the table (Holm)"


def method(resamples: int) -> str:
    """Say in the footer how intervals were made."""
    return f"95 % intervals: percentile bootstrap over prompts, {resamples:,} resamples, stratified by task"


def equal_weights(tasks: Sequence[Any]) -> Floats:
    """Return the weights of the mean over tasks, [P]; `tasks` names each prompt's task."""
    _, codes, counts = np.unique(np.asarray(tasks), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(counts) * counts[codes]))


def resampled_weights(tasks: Sequence[Any], resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the weights of resampled means, [B, P]: each task's prompts are drawn with replacement from that task."""
    names = np.asarray(tasks)
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(names)))
    strata = np.unique(names)
    for task in strata:
        members = np.flatnonzero(names == task)
        counts = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
        weights[:, members] = counts / (len(members) * len(strata))
    return weights


def all_weights(tasks: Sequence[str], resamples: int) -> Floats:
    """Return the weights of the mean in row 0 and of its resamples below, [1 + B, P]; read-only.

    They depend on which prompts share a task, not on its name: most tables of a figure have the same.
    """
    return _cached_weights(tuple(np.unique(np.asarray(tasks), return_inverse=True)[1].tolist()), resamples)


@lru_cache(maxsize=4)
def _cached_weights(tasks: tuple[int, ...], resamples: int) -> Floats:
    weights = np.vstack([equal_weights(tasks), resampled_weights(tasks, resamples)])
    weights.flags.writeable = False
    return weights


def rank_correlation(one: Floats, other: Floats) -> Floats:
    """Return Spearman's correlation of the rows of two [B, C], ties at their mean rank, [B]; NaN if a row is flat."""
    ranks = [pd.DataFrame(values).rank(axis=1).to_numpy() for values in (one, other)]
    x, y = (values - values.mean(1, keepdims=True) for values in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def interval(draws: ArrayLike) -> tuple[Floats, Floats]:
    """Return both ends of the 95 % percentile interval of each column of `draws`, [B, C] to twice [C]."""
    low, high = np.percentile(np.asarray(draws), [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return low, high


class Estimate(NamedTuple):
    """Statistics with both ends of their intervals, [C] each."""

    value: Floats
    low: Floats
    high: Floats


def estimate(draws: Floats) -> Estimate:
    """Return the estimate of draws, [1 + B, C], whose row 0 is the data itself."""
    # A difference that cancels out must be 0, not a rounding error with a sign.
    return Estimate(*(values.round(9) for values in (draws[0], *interval(draws[1:]))))


def holm(draws: Floats) -> Estimate:
    """Return the estimates of comparisons with 0, [1 + B, C], with intervals corrected for their number (Holm).

    The most significant comparison gets the widest interval, of level 1 - .05 / C, the next one 1 - .05 / (C - 1), and
    so on. From the first interval that holds 0 all have its level, and hold 0 too. Columns of NaN do not count.
    """
    value, low, high = (np.full(draws.shape[1], np.nan) for _ in range(3))
    value[:] = draws[0].round(9)
    sides = [(draws[1:] <= 0).mean(0), (draws[1:] >= 0).mean(0)]
    known = np.flatnonzero(~np.isnan(value))
    left = len(known)
    for column in known[np.argsort(np.minimum(*sides)[known], kind="stable")]:
        tail = (100 - LEVEL) / 2 / left
        low[column], high[column] = np.percentile(draws[1:, column], [tail, 100 - tail]).round(9)
        if left > 1 and (low[column] > 0 or high[column] < 0):
            left -= 1
    return Estimate(value, low, high)


def mean(values: Floats, tasks: Sequence[str], resamples: int) -> Estimate:
    """Return the mean over tasks of each column of [P, C], with its interval."""
    return estimate(all_weights(tasks, resamples) @ values)
