"""Tokens that leave the window join a summary; where mathematics allows it, in parts as at once, and in any order."""

import layers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_estimators import SPECS, build, every, make, without_probes

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.moments import KeyMoments

TOKENS = 46
GAUSSIANS = ["gaussian", "diagonal"]


def estimates(estimator, summary, query, size=TOKENS):
    sizes = torch.full(query.shape[2:3], size)
    mass, value = estimator.mass_and_value(query, summary, sizes, layers.SCALE)
    return torch.cat([mass[..., None], value], -1)


def streamed(estimator, bulk: Bulk, *cuts: int, order=None):
    """Summary of the first keys, updated with the others in parts."""
    order = torch.arange(TOKENS) if order is None else order
    keys, values = bulk.keys[:, order], bulk.values[:, order]
    summary = estimator.summarise(Bulk.between(LayerCache(1, keys, values, layers.SCALE), 0, cuts[0]))
    for first, last in zip(cuts, [*cuts[1:], TOKENS], strict=True):
        summary = estimator.update(summary, keys[:, first:last], values[:, first:last])
    return summary


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(GAUSSIANS), cuts=st.lists(st.integers(0, TOKENS), min_size=1))
def test_parts_are_the_whole_at_once(name: str, cuts: list[int]) -> None:
    bulk, query, estimator = without_probes(layers.bulk()), layers.queries(), make(name)
    found = estimates(estimator, streamed(estimator, bulk, *sorted(cuts)), query)
    torch.testing.assert_close(found, estimates(estimator, estimator.summarise(bulk), query))


@settings(deadline=None, max_examples=30)
@given(name=st.sampled_from(GAUSSIANS), cut=st.integers(0, TOKENS), order=st.permutations(range(TOKENS)))
def test_a_gaussian_takes_its_keys_in_any_order(name: str, cut: int, order: list[int]) -> None:
    bulk, query, estimator = without_probes(layers.bulk()), layers.queries(), make(name)
    found = estimates(estimator, streamed(estimator, bulk, cut, order=torch.tensor(order)), query)
    torch.testing.assert_close(found, estimates(estimator, estimator.summarise(bulk), query))


@every
def test_no_token_changes_nothing_and_the_given_summary_stays(name: str) -> None:
    bulk, query, estimator = layers.bulk(), layers.queries(), make(name)
    summary = estimator.summarise(bulk)
    before = estimates(estimator, summary, query)
    none = estimator.update(summary, bulk.keys[:, :0], bulk.values[:, :0])
    torch.testing.assert_close(estimates(estimator, none, query), before, rtol=0, atol=1e-12)
    estimator.update(summary, bulk.keys + 5, bulk.values + 5)
    torch.testing.assert_close(estimates(estimator, summary, query), before, rtol=0, atol=0)


@every
def test_an_update_in_half_precision_or_on_an_empty_summary_is_seen(name: str) -> None:
    bulk, query, estimator = layers.bulk(), layers.queries(), make(name)
    empty = estimator.summarise(layers.bulk(first=9, last=9))
    summary = estimator.update(empty, bulk.keys.half(), bulk.values.half())
    found, zero = (estimates(estimator, part, query) for part in (summary, empty))
    assert found.isfinite().all() and not torch.isclose(found[..., 1:], zero[..., 1:]).any()
    torch.testing.assert_close(found[..., 0], layers.exact(query, bulk)[0], rtol=0, atol=3)


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(0, TOKENS), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_keys_that_join_clusters_are_counted_in_their_means(cuts: list[int], seed: int) -> None:
    bulk = layers.bulk(seed=seed)
    summary = streamed(make("clusters"), bulk, *sorted(cuts))
    assert (summary.size.sum(1) == TOKENS).all()
    share = summary.size[..., None] / TOKENS
    torch.testing.assert_close((share * summary.key).sum(1), bulk.keys.mean(1))
    torch.testing.assert_close((share * summary.value).sum(1), bulk.values.mean(1))


def test_a_key_joins_the_nearest_cluster() -> None:
    bulk = layers.bulk()
    summary = make("clusters").summarise(bulk)
    near = summary.key[:, 2:3] + 0.01
    updated = make("clusters").update(summary, near, near)
    assert (updated.size - summary.size).tolist() == [[0, 0, 1, 0]] * 2


def test_another_texts_moments_stay_and_the_value_is_the_bulks() -> None:
    bulk, other = layers.bulk(), KeyMoments.of(layers.draw(2, 9, 8, seed=5))
    estimator = build({**SPECS["gaussian"], "moments": "random_words"}, {"random_words": {1: other}})
    summary = streamed(estimator, bulk, 7, 20)
    assert torch.equal(summary.moments.mean, other.mean) and torch.equal(summary.moments.covariance, other.covariance)
    torch.testing.assert_close(summary.value, bulk.values.mean(1))
