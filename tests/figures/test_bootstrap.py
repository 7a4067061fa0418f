"""Intervals over prompts: paired, stratified, percentile."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.figures.common import bootstrap

TASKS = ["a"] * 3 + ["b"] * 6


def test_every_resample_draws_each_task_from_itself():
    weights = bootstrap.resampled_weights(TASKS, 50, seed=1)
    np.testing.assert_allclose(weights[:, :3].sum(axis=1), 0.5)
    np.testing.assert_allclose(weights[:, 3:].sum(axis=1), 0.5)


def test_the_mean_counts_tasks_the_same_and_prompts_the_same_within_a_task():
    np.testing.assert_allclose(bootstrap.equal_weights(TASKS), [1 / 6] * 3 + [1 / 12] * 6)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 100))
def test_identical_prompts_have_an_interval_of_no_width(score):
    low, high = bootstrap.interval(bootstrap.resampled_weights(TASKS, 100, 0) @ np.full((9, 1), score))
    np.testing.assert_allclose([low[0], high[0]], score, atol=1e-9)


def test_a_seed_repeats_the_draws_and_another_changes_them():
    first = bootstrap.resampled_weights(TASKS, 20, seed=1)
    np.testing.assert_array_equal(first, bootstrap.resampled_weights(TASKS, 20, seed=1))
    assert not np.array_equal(first, bootstrap.resampled_weights(TASKS, 20, seed=2))


def test_the_interval_of_a_mean_is_near_the_normal_one_for_many_prompts():
    values = np.random.default_rng(0).normal(10, 2, size=400)
    low, high = bootstrap.interval(bootstrap.resampled_weights(["a"] * 400, 2000, 0) @ values[:, None])
    reach = 1.96 * values.std() / 20
    np.testing.assert_allclose([low[0], high[0]], [values.mean() - reach, values.mean() + reach], atol=0.05)


def test_the_rank_correlation_is_that_of_ranks_with_ties():
    def correlation(*pairs):
        return bootstrap.rank_correlation(*np.array(pairs, dtype=float).T[:, None])[0]

    assert correlation((1, 10), (2, 20), (3, 15)) == 0.5
    assert correlation((1, 1), (1, 2), (2, 3)) == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(correlation((1, 1), (1, 2)))


def test_holm_widens_the_clearest_interval_most_and_stops_at_the_first_that_holds_0():
    draws = np.random.default_rng(0).normal([-5.0, 2.55, 2.3, 0.0, np.nan], 1, size=(40_001, 5))
    draws[0] = [-5.0, 2.55, 2.3, 0.0, np.nan]
    value, low, high = bootstrap.holm(draws)
    # Of four comparisons three are clear: 1 - .05 / 4, 1 - .05 / 3, 1 - .05 / 2, and .95 is left for the last.
    reach = (high - low)[:4] / 2
    np.testing.assert_allclose(reach, [2.498, 2.394, 2.241, 1.96], atol=0.05)
    assert high[0] < 0 and low[1] > 0 and low[2] > 0 and low[3] < 0 < high[3]
    assert np.isnan([value[4], low[4], high[4]]).all()
    _, low, high = bootstrap.holm(draws[:, [2, 3, 3, 3]])
    assert low[0] < 0 < bootstrap.estimate(draws[:, [2]]).low[0]  # clear alone, and not among four
    assert (high - low)[1] == pytest.approx((high - low)[2])


def test_holm_of_one_comparison_is_its_own_interval():
    draws = np.random.default_rng(0).normal(1, 1, size=(2001, 1))
    np.testing.assert_array_equal(bootstrap.holm(draws), bootstrap.estimate(draws))
