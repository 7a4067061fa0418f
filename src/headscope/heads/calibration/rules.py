"""Rules that turn a target a user understands into one threshold for all heads, and how far their promise is kept.

Shapes: N rows (layer, query) of one prompt, H query heads. A pair is local iff its margin reaches the threshold.
`exact` are always log-odds of the exact share of the criterion's own window. Every prompt weighs the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headscope.errors import ConfigError
from headscope.heads.calibration.thresholds import no_pairs, threshold_for

Floats = NDArray[np.floating[Any]]
Prompts = Sequence[Floats]
MOSTLY_BULK = float(np.log(0.1 / 0.9))
"""Log-odds below which more than .9 of the mass lies outside the window: the pairs that coverage is about."""


@dataclass(frozen=True)
class ThresholdRule:
    """One rule.

    Attributes:
        threshold: from margins and exact log-odds of each prompt, [N, H], and the target.
        achieved: the rule's value for labels (True is local) on other prompts, exact log-odds and the target; NaN if
            no pair tells it.
    """

    threshold: Callable[[Prompts, Prompts, float], float]
    achieved: Callable[[Sequence[NDArray[np.bool_]], Prompts, float], float]


def bulk_share(log_odds: Floats) -> Floats:
    """Share of the mass outside the window, the shape of the log-odds; float64."""
    with np.errstate(over="ignore"):
        share: Floats = 1 / (1 + np.exp(log_odds.astype(np.float64)))
    return share


def _tau(margins: Prompts, exact: Prompts, target: float) -> float:
    """The window's share itself."""
    return float(np.log(target / (1 - target)))


def _lost_mass(margins: Prompts, exact: Prompts, target: float) -> float:
    """The most sparsity at which the mean bulk share of local pairs, summed over all pairs, stays within the target.

    Raises:
        ConfigError: no prompt has a pair.
    """
    prompts = [(m.ravel(), bulk_share(e.ravel()) / e.size) for m, e in zip(margins, exact, strict=True) if m.size]
    if not prompts:
        raise no_pairs()
    values, lost = (np.concatenate(part) for part in zip(*prompts, strict=True))
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    ordered = values[order]
    so_far = np.cumsum(lost[order]) / len(prompts)
    # Pairs with the same margin pass together, and a NaN never does.
    last = np.append(ordered[1:] != ordered[:-1], True) & ~np.isnan(ordered)
    allowed = np.flatnonzero(last & (so_far <= target))
    return float(ordered[allowed[-1]] if len(allowed) else np.nextafter(ordered[0], np.inf))


def _coverage(margins: Prompts, exact: Prompts, target: float) -> float:
    """Call long at least this share of the pairs with more than .9 of their mass outside the window, on new prompts.

    Split conformal prediction by prompts (hierarchical conformal prediction, arXiv 2306.06342): the pairs of a prompt
    depend on each other, so that the finite sample is the number of prompts, not of pairs. For a random such pair of a
    new prompt exchangeable with those of calibration the promise holds on average over calibration sets; a map of the
    margins fitted on the same prompts makes it approximate.

    Raises:
        ConfigError: too few prompts have such a pair; k prompts promise at most k / (k + 1).
    """
    found = [m[e < MOSTLY_BULK] for m, e in zip(margins, exact, strict=True)]
    found = [np.nan_to_num(margin, nan=-np.inf) for margin in found if margin.size]
    if target * (len(found) + 1) > len(found) * (1 + 1e-12):
        raise ConfigError(
            f"option calibration.targets: coverage {target} is beyond what the {len(found)} calibration prompts that"
            " have a pair with over .9 of its mass outside the window can promise,"
            f" {len(found) / (len(found) + 1):.3f}; lower it or raise samples.calibration"
        )
    values = np.concatenate(found)
    weights = np.concatenate([np.full(margin.size, 1 / (margin.size * (len(found) + 1))) for margin in found])
    order = np.argsort(values, kind="stable")
    reached = int(np.searchsorted(np.cumsum(weights[order]), target * (1 - 1e-12)))
    return float(np.nextafter(values[order[min(reached, len(order) - 1)]], np.inf))


def _mean(parts: Sequence[Any]) -> float:
    """Mean over prompts of the means of their pairs; NaN without pairs."""
    means = [float(part.mean()) for part in parts if part.size]
    return float(np.mean(means)) if means else float("nan")


RULES = {
    "sparsity": ThresholdRule(
        lambda margins, exact, target: threshold_for(margins, target),
        lambda local, exact, target: _mean(local),
    ),
    "tau": ThresholdRule(  # share of the pairs called local whose window holds tau
        _tau,
        lambda local, exact, target: _mean(
            [e[called] >= np.log(target / (1 - target)) for called, e in zip(local, exact, strict=True)]
        ),
    ),
    "lost_mass": ThresholdRule(
        _lost_mass,
        lambda local, exact, target: _mean([bulk_share(e) * called for called, e in zip(local, exact, strict=True)]),
    ),
    "coverage": ThresholdRule(
        _coverage,
        lambda local, exact, target: _mean([~called[e < MOSTLY_BULK] for called, e in zip(local, exact, strict=True)]),
    ),
}
