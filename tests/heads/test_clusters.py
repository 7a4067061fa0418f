"""Estimators with several parts: clusters of keys, and outliers scored exactly."""

import layers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import build
from headscope.heads.moments import KeyMoments, gaussian_log_mass

GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "capped": False, "moments": "prompt"}


def clusters(count: int):
    return build({"kind": "clusters", "name": "c", "clusters": count}, {})


def scored(count: int, rest=None):
    rest = rest or {"kind": "clusters", "name": "c", "clusters": 3}
    return build({**rest, "name": "o", "scored": {"rules": ["mahalanobis"], "count": count, "bits": 16}}, {})


def estimate(estimator, bulk, query, size=None):
    size = torch.tensor(bulk.index.shape[1]) if size is None else size
    return estimator.log_mass(query, estimator.summarise(bulk), size.expand(query.shape[2]), layers.SCALE)


@pytest.mark.parametrize("probes", [0, 5])
def test_as_many_clusters_as_keys_are_exact(probes: int) -> None:
    bulk, query = layers.bulk(probes=probes), layers.queries()
    estimator = clusters(1000)
    mass, value = layers.exact(query, bulk)
    torch.testing.assert_close(estimate(estimator, bulk, query), mass)
    torch.testing.assert_close(estimator.value(query, estimator.summarise(bulk), layers.SCALE), value)


def test_one_cluster_is_the_gaussian_of_the_prompts_moments() -> None:
    bulk, query = layers.bulk(), layers.queries()
    mean, variance = KeyMoments.of(bulk.keys).score_moments(query, layers.SCALE)
    expected = gaussian_log_mass(mean, variance, torch.tensor([46] * 7))
    torch.testing.assert_close(estimate(clusters(1), bulk, query), expected)
    value = clusters(1).value(query, clusters(1).summarise(bulk), layers.SCALE)
    torch.testing.assert_close(value, bulk.values.mean(1).repeat_interleave(3, 0)[None, :, None].expand_as(value))


def test_separate_kinds_of_keys_are_found_and_one_gaussian_fails_there() -> None:
    centres = 6 * layers.draw(2, 4, 8, seed=5)
    keys = centres.repeat_interleave(64, 1) + 0.1 * layers.draw(2, 256, 8, seed=6)
    cache = LayerCache(0, keys, layers.draw(2, 256, 8, seed=7), layers.SCALE)
    bulk, query = Bulk.between(cache, 0, 256), layers.queries()
    mass, _ = layers.exact(query, bulk)
    errors = [(estimate(clusters(count), bulk, query) - mass).abs().mean() for count in (1, 4)]
    assert errors[1] < 0.05 < 1 < errors[0]


def test_gaussian_keys_are_estimated_better_the_more_there_are() -> None:
    query = 0.7 * layers.queries(20)
    errors = []
    for tokens in (50, 5000):
        bulk = Bulk.between(LayerCache(0, layers.draw(2, tokens, 8), layers.draw(2, tokens, 8, seed=1)), 0, tokens)
        estimator = clusters(4)
        mass = torch.stack([(query[:, h] @ bulk.keys[h // 3].T * layers.SCALE).logsumexp(-1) for h in range(6)], 1)
        found = estimator.log_mass(query, estimator.summarise(bulk), torch.tensor([tokens] * 20), layers.SCALE)
        errors.append((found - mass).abs().mean())
    assert errors[1] < errors[0] and errors[1] < 0.05


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 12), tokens=st.integers(1, 40), seed=st.integers(0, 99))
def test_sizes_means_and_spreads_make_up_the_whole(count: int, tokens: int, seed: int) -> None:
    bulk = layers.bulk(tokens=60, first=3, last=3 + tokens, seed=seed)
    summary = clusters(count).summarise(bulk)
    assert (summary.size.sum(1) == tokens).all() and summary.size.shape[1] == min(count, tokens)
    share = summary.size / tokens
    torch.testing.assert_close((share[..., None] * summary.key).sum(1), bulk.keys.mean(1))
    torch.testing.assert_close((share[..., None] * summary.value).sum(1), bulk.values.mean(1))
    spread = (share * summary.spread).sum(1)
    assert ((spread - 1).abs().min(spread.abs()) < 1e-6).all()  # 0: every key is its own cluster


@pytest.mark.parametrize("make", [lambda: clusters(4), lambda: scored(5)])
def test_a_shift_of_all_keys_shifts_the_log_mass(make) -> None:
    bulk, query, shift = layers.bulk(probes=0), layers.queries(), layers.draw(8, seed=3)
    moved = Bulk(LayerCache(1, bulk.cache.keys + shift, bulk.cache.values, layers.SCALE), bulk.index)
    expected = estimate(make(), bulk, query) + (query @ shift) * layers.SCALE
    torch.testing.assert_close(estimate(make(), moved, query), expected)


@pytest.mark.parametrize("make", [lambda: clusters(4), lambda: scored(5)])
def test_the_true_size_counts_and_no_bulk_has_no_mass(make) -> None:
    bulk, query = layers.bulk(), layers.queries(2)
    found = estimate(make(), bulk, query, torch.tensor([0, 46]))
    assert torch.isneginf(found[..., 0]).all() and found[..., 1].isfinite().all()
    if make().name == "c":
        torch.testing.assert_close(
            estimate(make(), bulk, query, torch.tensor(92)), estimate(make(), bulk, query) + torch.tensor(2.0).log()
        )


@pytest.mark.parametrize("make", [lambda: clusters(4), lambda: scored(5)])
def test_an_empty_summary_takes_scores_of_zero(make) -> None:
    bulk, query = layers.bulk(first=16, last=8), layers.queries(2)
    found = estimate(make(), bulk, query, torch.tensor([3, 0]))
    torch.testing.assert_close(found[..., 0], torch.full((2, 6), 3.0, dtype=torch.float64).log())
    assert torch.isneginf(found[..., 1]).all()


@pytest.mark.parametrize("rest", [GAUSSIAN, {"kind": "clusters", "name": "c", "clusters": 3}])
def test_all_keys_as_outliers_are_exact_and_none_leave_the_rest(rest: dict) -> None:
    bulk, query = layers.bulk(), layers.queries()
    torch.testing.assert_close(estimate(scored(46, rest), bulk, query), layers.exact(query, bulk)[0])
    torch.testing.assert_close(estimate(scored(0, rest), bulk, query), estimate(build(rest, {}), bulk, query))


def test_a_key_that_one_head_looks_for_is_seen_among_the_outliers_alone() -> None:
    bulk, query = layers.bulk(), layers.queries()
    bulk.cache.keys[0, 30] = 40 * query[0, 1, 2] / query[0, 1, 2].norm()
    mass = layers.exact(query, bulk)[0][0, 1, 2]
    assert (estimate(scored(1), bulk, query)[0, 1, 2] - mass).abs() < 0.05
    assert (estimate(build(GAUSSIAN, {}), bulk, query)[0, 1, 2] - mass).abs() > 5


@pytest.mark.parametrize("make", [lambda: clusters(4), lambda: scored(5)])
def test_float32_is_near_float64_and_a_nan_query_stays_nan(make) -> None:
    whole, single = (layers.bulk(dtype=dtype) for dtype in (torch.float64, torch.float32))
    single = Bulk(LayerCache(1, whole.cache.keys.float(), whole.cache.values.float(), layers.SCALE), single.index)
    whole = Bulk(LayerCache(1, whole.cache.keys, whole.cache.values, layers.SCALE), whole.index)
    query = layers.queries()
    found = estimate(make(), single, query.float())
    torch.testing.assert_close(found.double(), estimate(make(), whole, query), rtol=1e-4, atol=1e-4)
    query[0, 0, 0, 0] = torch.nan
    assert torch.isnan(estimate(make(), whole, query)[0, 0, 0])
