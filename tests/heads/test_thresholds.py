import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.errors import ConfigError
from headscope.heads.calibration.thresholds import bulk_share, head_means, static_labels, threshold_for


def mean_sparsity(prompts, threshold):
    return np.mean([(odds >= threshold).mean() for odds in prompts])


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_the_threshold_reaches_the_target_and_a_larger_one_does_not(target: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    prompts = [random.normal(size=(size, 3)).round(1) for size in (4, 9, 30)]  # rounding makes ties
    found = threshold_for(prompts, target)
    assert mean_sparsity(prompts, found) >= target - 1e-9
    assert mean_sparsity(prompts, np.nextafter(found, np.inf)) < target


def test_every_prompt_counts_the_same_whatever_its_length() -> None:
    short, long = np.full((1, 2), 5.0), np.full((500, 2), -5.0)
    assert threshold_for([short, long], 0.5) == 5.0
    assert threshold_for([short, long], 0.51) == -5.0


def test_nan_pairs_are_never_called_local() -> None:
    odds = np.array([[np.nan, 1.0, 2.0, 3.0]])
    assert threshold_for([odds], 0.5) == 2.0


def test_no_pairs_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"window\.recent"):
        threshold_for([np.zeros((0, 4))], 0.5)


def test_the_bulks_share_is_finite_everywhere() -> None:
    share = bulk_share(np.array([-1e4, 0.0, 1e4, np.inf], dtype=np.float32))
    assert share.dtype == np.float64 and share.tolist() == [1, 0.5, 0, 0]


def test_a_ranking_keeps_the_most_often_long_heads_and_breaks_ties_by_lost_mass() -> None:
    share = np.array([[0.9, 0.1], [0.5, 0.5]])
    lost = np.array([[0.0, 0.0], [0.2, 0.3]])
    assert static_labels(share, lost, 0.5).tolist() == [[True, False], [False, True]]
    assert static_labels(share, lost, 0.25).sum() == 3


def test_head_means_weigh_prompts_not_queries() -> None:
    layers = [np.array([2, 2, 5, 5]), np.array([2, 5])]
    values = [np.array([[1.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [0.0]])]
    indices, means = head_means(values, layers)
    assert indices == [2, 5] and means.tolist() == [[0.25], [0.5]]
