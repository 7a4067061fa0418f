import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.errors import ConfigError
from headscope.heads.calibration.rules import MOSTLY_BULK, RULES, bulk_share
from headscope.heads.calibration.thresholds import threshold_for

LOST_MASS, COVERAGE = RULES["lost_mass"], RULES["coverage"]


def drawn(seed: int, noise: float = 2.0, sizes=(4, 9, 30)) -> tuple[list, list]:
    """Margins with ties and a NaN, and exact log-odds, of each prompt, [N, 3]."""
    random = np.random.default_rng(seed)
    exact = [random.normal(1, 3, (size, 3)) for size in sizes]
    margins = [(e + random.normal(0, noise, e.shape)).round(1) for e in exact]
    margins[0][0, 0] = np.nan
    return margins, exact


def mean_lost(margins, exact, threshold: float) -> float:
    return float(np.mean([((m >= threshold) / (1 + np.exp(e))).mean() for m, e in zip(margins, exact, strict=True)]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.001, 0.6))
def test_lost_mass_stays_within_the_target_and_one_pair_more_would_not(seed: int, target: float) -> None:
    margins, exact = drawn(seed)
    found = LOST_MASS.threshold(margins, exact, target)
    assert mean_lost(margins, exact, found) <= target + 1e-12
    values = np.concatenate([m.ravel() for m in margins])
    more = values[values < found]
    assert not more.size or mean_lost(margins, exact, more.max()) > target - 1e-12


def test_where_any_local_pair_loses_too_much_none_is_local() -> None:
    margins, exact = [np.array([[1.0, 2.0]])], [np.array([[-5.0, -5.0]])]
    assert 2.0 < LOST_MASS.threshold(margins, exact, 0.01) < 2.1


def test_lost_mass_without_pairs_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"window\.recent"):
        LOST_MASS.threshold([np.zeros((0, 4))], [np.zeros((0, 4))], 0.5)


def test_tau_is_the_local_share() -> None:
    threshold = RULES["tau"].threshold([], [], 0.9)
    assert 1 / (1 + np.exp(-threshold)) == pytest.approx(0.9)
    exact = [np.array([[threshold + 1, threshold - 1, threshold + 2]])]
    local = [np.array([[True, True, False]])]
    assert RULES["tau"].achieved(local, exact, 0.9) == 0.5


def simulated(random: np.random.Generator, prompts: int) -> tuple[list, list]:
    """Prompts whose pairs depend on each other: each has an error of its own, and its own number of pairs."""
    margins, exact = [], []
    for size in random.integers(1, 60, prompts):
        e = random.normal(MOSTLY_BULK, 3, (size, 2))
        exact.append(e)
        margins.append(e + random.normal(0, 2) + random.normal(0, 0.5, e.shape))
    return margins, exact


@pytest.mark.parametrize("target", [0.5, 0.9])
def test_new_prompts_are_covered_as_promised(target: float) -> None:
    random, found = np.random.default_rng(0), []
    for _ in range(400):
        threshold = COVERAGE.threshold(*simulated(random, 20), target)
        margins, exact = simulated(random, 10)
        found.append(COVERAGE.achieved([m >= threshold for m in margins], exact, target))
    error = np.std(found) / np.sqrt(len(found))
    assert target - 3 * error < np.mean(found) < target + 1 / 20 + 3 * error


def test_the_finite_sample_is_that_of_prompts_however_many_pairs_they_have() -> None:
    long = [np.full((50, 1), float(i)) for i in range(9)]
    exact = [np.full((50, 1), -9.0)] * 9
    assert COVERAGE.threshold(long, exact, 0.9) > 8.0
    with pytest.raises(ConfigError, match=r"coverage 0\.91 .* 9 calibration prompts .* 0\.900"):
        COVERAGE.threshold(long, exact, 0.91)
    assert 4.0 < COVERAGE.threshold(long, exact, 0.5) < 4.1


def test_coverage_without_such_a_pair_is_an_error() -> None:
    with pytest.raises(ConfigError, match="0 calibration prompts"):
        COVERAGE.threshold([np.zeros((3, 2))], [np.zeros((3, 2))], 0.5)


def test_an_undecided_pair_is_covered() -> None:
    margins = [np.array([[np.nan]]), np.array([[1.0]]), np.array([[2.0]])]
    assert 1.0 < COVERAGE.threshold(margins, [np.full((1, 1), -9.0)] * 3, 0.5) < 1.1


BY_HAND = {"sparsity": (0.25 + 1) / 2, "lost_mass": (0.25 + 0.5) / 2, "coverage": (2 / 3 + 0) / 2}


@pytest.mark.parametrize(("rule", "expected"), BY_HAND.items())
def test_achieved_values_weigh_prompts_not_pairs(rule: str, expected: float) -> None:
    far = -50.0
    local = [np.array([[True, False], [False, False]]), np.array([[True, True]])]
    exact = [np.array([[far, far], [9.0, far]]), np.array([[far, 50.0]])]
    assert RULES[rule].achieved(local, exact, 0.5) == pytest.approx(expected, abs=1e-6)


def test_sparsity_is_the_threshold_of_old_and_no_long_pair_has_no_coverage() -> None:
    margins, exact = drawn(3)
    assert RULES["sparsity"].threshold(margins, exact, 0.7) == threshold_for(margins, 0.7)
    assert np.isnan(COVERAGE.achieved([np.array([[True]])], [np.array([[5.0]])], 0.9))


def test_bulk_share_is_finite_everywhere() -> None:
    found = bulk_share(np.array([-1e4, 0.0, 1e4, np.inf], dtype=np.float32))
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0]
