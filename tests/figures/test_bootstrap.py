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
