"""How well a criterion's labels or scores agree with the oracle's.

Shapes: R rows (prompt, layer, query), H query heads; a *pair* is one (row, head). Positive = long-context. A score is
larger where a head looks more long-context, e.g. predicted `L_bulk - L_local`. Weights let every prompt count the same.
Measures of scores share one sort (`Ranking`). N pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
FEWEST = 20
"""A head with fewer pairs of either class has no ROC curve of its own."""


def roc_from_counts(positive: ArrayLike, negative: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positive rates, [..., bins + 1], from class weights in bins of ascending score, [..., bins].

    A bin is a tie: its pairs pass the threshold together. Rates of an empty class are NaN.
    """
    return _rates(negative), _rates(positive)


def _rates(weights: ArrayLike) -> Floats:
    descending = np.asarray(weights, dtype=np.float64)[..., ::-1]
    passed = np.concatenate([np.zeros((*descending.shape[:-1], 1)), np.cumsum(descending, axis=-1)], axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(passed / passed[..., -1:])


def area(false_rate: ArrayLike, true_rate: ArrayLike) -> Floats:
    """Area under ROC curves along the last axis (trapezoids: a tie counts one half)."""
    x, y = np.asarray(false_rate), np.asarray(true_rate)
    return np.asarray((np.diff(x, axis=-1) * (y[..., 1:] + y[..., :-1]) / 2).sum(axis=-1))


class Counts(NamedTuple):
    """Pairs of each class by distinct score, ascending."""

    long: Integers
    local: Integers


@dataclass(frozen=True)
class Ranking:
    """Pairs by ascending score: measures of the same scores share one sort.

    Attributes:
        keys: the scores as whole numbers of the same order, [N].
        order: the pairs, ascending, ties in their own order, [N].
        last: place in the order of the last pair of each distinct score.
    """

    keys: NDArray[np.uint32]
    order: Integers
    last: Integers

    @classmethod
    def of(cls, scores: ArrayLike) -> "Ranking":
        """Sort scores of any shape, to float32's precision; none may be NaN."""
        bits = (np.asarray(scores, dtype=np.float32).ravel() + 0).view(np.int32)  # adding 0 makes -0 equal to 0
        keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.uint32) ^ np.uint32(1 << 31)
        # One sort of whole numbers, with the pair's own in the lower half, is several times faster than an argsort.
        numbered = keys.astype(np.uint64)
        numbered <<= 32
        numbered |= np.arange(len(keys), dtype=np.uint64)
        numbered.sort()
        last = _last(numbered >> 32)
        numbered &= 0xFFFFFFFF
        return cls(keys, numbered.view(np.int64), last)

    def counts(self, positive: ArrayLike) -> Counts:
        """Count the pairs of each class by score; `positive` says of each pair whether it is long."""
        long = np.diff(np.cumsum(np.asarray(positive, dtype=bool).ravel()[self.order])[self.last], prepend=0)
        return Counts(long, np.diff(self.last, prepend=-1) - long)


def _last(sorted_values: NDArray[np.generic]) -> Integers:
    """Return the last place of each run of equal values."""
    return np.flatnonzero(np.concatenate([sorted_values[1:] != sorted_values[:-1], [True]])[: len(sorted_values)])


def auc(counts: Counts) -> float:
    """Return the chance that a long pair scores above a local one, ties one half; NaN if a class is absent."""
    return float(area(*roc_from_counts(*counts)))


def auc_within_heads(ranking: Ranking, positive: ArrayLike, heads: ArrayLike) -> float:
    """Return the mean AUC over heads with at least FEWEST pairs of each class; NaN if there is none.

    Args:
        ranking: of the pairs.
        positive: whether the oracle calls the pair long, any shape.
        heads: which head (of which layer) the pair belongs to, same shape.
    """
    keyed = np.asarray(heads).ravel().astype(np.uint64)
    keyed <<= 32
    keyed |= ranking.keys
    keyed <<= 1
    keyed |= np.asarray(positive, dtype=bool).ravel()
    keyed.sort()
    flags = (keyed & 1).astype(bool)
    keyed >>= 1
    last = _last(keyed)
    long = np.diff(np.cumsum(flags)[last], prepend=0)
    local = np.diff(last, prepend=-1) - long
    below = np.cumsum(local) - local
    first = np.concatenate([[0], _last(keyed[last] >> 32)[:-1] + 1])  # score of each head
    # Twice the wins of long pairs over local ones, ties one half: whole numbers, exact in any order of the sums.
    wins, longs, locals_ = (np.add.reduceat(part, first) for part in (long * (2 * below + local), long, local))
    wins -= 2 * below[first] * longs
    enough = np.minimum(longs, locals_) >= FEWEST
    return float(np.mean(wins[enough] / (2 * longs * locals_)[enough])) if enough.any() else float("nan")


def average_precision(counts: Counts) -> float:
    """Return the mean precision over the long pairs, ties passing together; NaN without long pairs."""
    long, local = (np.cumsum(part[::-1]) for part in counts)
    if not len(long) or long[-1] == 0:
        return float("nan")
    return float(np.sum(np.diff(long, prepend=0) * (long / (long + local))) / long[-1])


def recall_at_sparsity(counts: Counts, sparsity: float) -> float:
    """Return the share of long pairs that stay long when the lowest-scored `sparsity` of all pairs is called local.

    A tie at the cut is split evenly, as random tie-breaking would do on average. NaN without long pairs.
    """
    long, local = (np.cumsum(part[::-1]) for part in counts)
    if not len(long) or long[-1] == 0:
        return float("nan")
    passed = np.concatenate([[0.0], long + local]) / (long[-1] + local[-1])
    return float(np.interp(1.0 - sparsity, passed, np.concatenate([[0.0], long]) / long[-1]))


def sparsity_at_lost_mass(ranking: Ranking, bulk_share: ArrayLike, lost: float) -> float:
    """Largest share of pairs that a threshold can call local while their bulk shares average `lost` over all pairs.

    Ties pass together; NaN if the lowest one alone loses more.
    """
    share = np.asarray(bulk_share).ravel()[ranking.order]
    total = np.cumsum(share, dtype=np.float64)[ranking.last] / len(share)
    reached = int(np.searchsorted(total, lost, side="right"))
    return float((ranking.last[reached - 1] + 1) / len(share)) if reached else float("nan")


def lost_energies(
    ranking: Ranking, log_lost: ArrayLike, prompts: ArrayLike, sparsities: Sequence[float]
) -> list[float]:
    """Squared lost output of the lowest-scored pairs over all pairs, the mean over prompts; all [N].

    Not a share of what could be lost: criteria whose windows hold more lose less, and are compared.

    Args:
        ranking: of the pairs.
        log_lost: exact log norm of what the output loses if the pair is called local.
        prompts: number of the prompt it belongs to.
        sparsities: shares of all pairs called local, one for each energy; a tie at the cut is local.
    """
    numbers, keys = np.asarray(prompts), ranking.keys
    energy, pairs = 2 * np.asarray(log_lost, dtype=np.float64), np.bincount(numbers)
    np.exp(energy, out=energy)
    cuts = [keys[ranking.order[int((len(keys) - 1) * sparsity)]] for sparsity in sparsities]
    sums = (np.bincount(numbers, energy * (keys <= cut)) for cut in cuts)
    return [float(np.mean(of_prompt[pairs > 0] / pairs[pairs > 0])) for of_prompt in sums]
