"""Quality of labels and scores against brute force over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from headscope.heads import quality


@st.composite
def pairs(draw, fewest_of_a_class=1):
    """Scores with many ties, and labels of both classes."""
    n = draw(st.integers(2 * fewest_of_a_class, 40))
    scores = draw(hnp.arrays(np.float64, n, elements=st.integers(-3, 3).map(float)))
    long = np.array(draw(st.permutations([True] * fewest_of_a_class + [False] * (n - fewest_of_a_class))))
    return scores, long


def counts(scores, long):
    return quality.Ranking.of(scores).counts(long)


def brute_auc(scores, long):
    won = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in np.flatnonzero(long)
        for j in np.flatnonzero(~long)
    ]
    return np.mean(won)


def brute_average_precision(scores, long):
    return np.mean([long[scores >= scores[i]].mean() for i in np.flatnonzero(long)])


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_auc_is_the_chance_that_a_long_pair_wins(data):
    assert quality.auc(counts(*data)) == pytest.approx(brute_auc(*data))


@settings(max_examples=60, deadline=None)
@given(pairs(fewest_of_a_class=3))
def test_average_precision_is_the_mean_precision_at_each_long_pair(data):
    assert quality.average_precision(counts(*data)) == pytest.approx(brute_average_precision(*data))


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-3, 3, width=32) | st.sampled_from([np.inf, -np.inf]))
)
def test_a_ranking_is_a_stable_sort_whose_ties_are_equal_scores(scores):
    scores[::5] = -0.0
    scores[1::5] = 0.0
    ranking = quality.Ranking.of(scores)
    assert ranking.order.tolist() == np.argsort(scores, kind="stable").tolist()
    distinct, counted = np.unique(scores, return_counts=True)
    assert np.diff(ranking.last, prepend=-1).tolist() == counted.tolist()
    np.testing.assert_array_equal(scores[ranking.order[ranking.last]], distinct)


def test_one_class_alone_has_no_auc_and_warns_nothing(recwarn):
    assert np.isnan(quality.auc(counts([1.0, 2.0], [True, True])))
    assert np.isnan(quality.auc(counts([1.0, 2.0], [False, False])))
    assert quality.average_precision(counts([1.0, 2.0], [True, True])) == 1.0
    assert np.isnan(quality.average_precision(counts([1.0, 2.0], [False, False])))
    assert np.isnan(quality.recall_at_sparsity(counts([1.0, 2.0], [False, False]), 0.5))
    assert not recwarn.list


def test_a_static_score_is_blind_within_heads_and_not_pooled():
    rng = np.random.default_rng(0)
    heads = np.tile(np.arange(4), (200, 1))
    long = rng.random((200, 4)) < np.array([0.2, 0.4, 0.6, 0.8])
    static = heads.astype(float)
    assert quality.auc_within_heads(quality.Ranking.of(static), long, heads) == 0.5
    assert quality.auc(counts(static, long)) > 0.7


def test_within_heads_is_the_mean_over_heads_that_have_enough_of_both_classes():
    rng = np.random.default_rng(1)
    scores, long, heads = rng.normal(size=(60, 3)), rng.random((60, 3)) < 0.5, np.tile(np.arange(3), (60, 1))
    long[:, 2] = np.arange(60) < 19
    expected = np.mean([quality.auc(counts(scores[:, h], long[:, h])) for h in (0, 1)])
    assert quality.auc_within_heads(quality.Ranking.of(scores), long, heads) == pytest.approx(expected)
    assert np.isnan(quality.auc_within_heads(quality.Ranking.of(scores[:10]), long[:10], heads[:10]))


def test_recall_at_sparsity_splits_a_tie_evenly():
    long = np.array([True, True, False, False])
    assert quality.recall_at_sparsity(counts([2.0, 1.0, 0.5, 0.0], long), 0.5) == 1.0
    assert quality.recall_at_sparsity(counts([2.0, 1.0, 0.5, 0.0], long), 0.75) == 0.5
    assert quality.recall_at_sparsity(counts([1.0, 1.0, 1.0, 1.0], long), 0.25) == pytest.approx(0.75)
