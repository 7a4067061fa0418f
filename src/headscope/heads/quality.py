"""How well a criterion's labels or scores agree with the oracle's.

Shapes: R rows (prompt, layer, query), H query heads; a *pair* is one (row, head). Positive = long-context. A score is
larger where a head looks more long-context, e.g. predicted `L_bulk - L_local`. Weights let every prompt count the same.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
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


def _binned(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Floats]:
    """Count the pairs of each class by distinct score, ascending."""
    flat, long = np.asarray(scores).ravel(), np.asarray(positive, dtype=bool).ravel()
    distinct, codes = np.unique(flat, return_inverse=True)
    counts = [np.bincount(codes[of_class], minlength=len(distinct)).astype(np.float64) for of_class in (long, ~long)]
    return counts[0], counts[1]


def auc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the chance that a long pair scores above a local one, ties one half; NaN if a class is absent."""
    return float(area(*roc_from_counts(*_binned(scores, positive))))


def auc_within_heads(scores: ArrayLike, positive: ArrayLike, heads: ArrayLike) -> float:
    """Return the mean AUC over heads with at least FEWEST pairs of each class; NaN if there is none.

    Args:
        scores: score of each pair, any shape.
        positive: whether the oracle calls the pair long, same shape.
        heads: which head (of which layer) the pair belongs to, same shape.
    """
    flat, long = np.asarray(scores).ravel(), np.asarray(positive, dtype=bool).ravel()
    order = np.argsort(np.asarray(heads).ravel(), kind="stable")
    starts = np.unique(np.asarray(heads).ravel()[order], return_index=True)[1][1:]
    members = [part for part in np.split(order, starts) if min(long[part].sum(), (~long[part]).sum()) >= FEWEST]
    return float(np.mean([auc(flat[part], long[part]) for part in members])) if members else float("nan")


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float:
    """Return the mean precision over the long pairs, ties passing together; NaN without long pairs."""
    long, local = (np.cumsum(part[::-1]) for part in _binned(scores, positive))
    if not len(long) or long[-1] == 0:
        return float("nan")
    precision = long / (long + local)
    return float(np.sum(np.diff(long, prepend=0.0) * precision) / long[-1])


def recall_at_sparsity(scores: ArrayLike, positive: ArrayLike, sparsity: float) -> float:
    """Return the share of long pairs that stay long when the lowest-scored `sparsity` of all pairs is called local.

    A tie at the cut is split evenly, as random tie-breaking would do on average. NaN without long pairs.
    """
    long, local = (np.cumsum(part[::-1]) for part in _binned(scores, positive))
    if not len(long) or long[-1] == 0:
        return float("nan")
    passed = np.concatenate([[0.0], long + local]) / (long[-1] + local[-1])
    return float(np.interp(1.0 - sparsity, passed, np.concatenate([[0.0], long]) / long[-1]))


def sparsity_at_lost_mass(scores: ArrayLike, bulk_share: ArrayLike, lost: float) -> float:
    """Largest share of pairs that a threshold can call local while their bulk shares average `lost` over all pairs.

    Ties pass together; NaN if the lowest one alone loses more.
    """
    share = np.asarray(bulk_share, dtype=np.float64).ravel()
    _, codes, counts = np.unique(np.asarray(scores).ravel(), return_inverse=True, return_counts=True)
    total = np.cumsum(np.bincount(codes, share)) / len(share)
    reached = int(np.searchsorted(total, lost, side="right"))
    return float(counts[:reached].sum() / len(share)) if reached else float("nan")


def lost_energy(scores: ArrayLike, log_lost: ArrayLike, prompts: ArrayLike, sparsity: float) -> float:
    """Squared lost output of the `sparsity` lowest-scored pairs over all pairs, the mean over prompts; all [N].

    Not a share of what could be lost: criteria whose windows hold more lose less, and are compared.

    Args:
        scores: of each pair.
        log_lost: exact log norm of what the output loses if the pair is called local.
        prompts: number of the prompt it belongs to.
        sparsity: share of all pairs called local; a tie at the cut is local.
    """
    flat = np.asarray(scores, dtype=np.float64)
    local = flat <= np.quantile(flat, sparsity, method="lower")
    energy = np.exp(2 * np.asarray(log_lost, dtype=np.float64)) * local
    pairs = np.bincount(np.asarray(prompts))
    return float(np.mean(np.bincount(np.asarray(prompts), energy)[pairs > 0] / pairs[pairs > 0]))
