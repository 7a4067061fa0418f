"""Clusters of keys: how they are found, and what they estimate."""

import layers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import build
from headscope.heads.moments import KeyMoments, gaussian_log_mass
from headscope.heads.quantised import rounded


def clusters(count: int):
    return build({"kind": "clusters", "name": "c", "clusters": count, "covariance": "full", "bits": 16}, {})


def estimate(estimator, bulk, query):
    size = torch.full(query.shape[2:3], bulk.index.shape[1])
    return estimator.log_mass(query, estimator.summarise(bulk), size, layers.SCALE)


def test_one_cluster_is_the_gaussian_of_the_prompts_moments() -> None:
    bulk, query = layers.bulk(), layers.queries()
    mean, variance = KeyMoments.of(bulk.keys).score_moments(query, layers.SCALE)
    expected = gaussian_log_mass(mean, variance, torch.tensor([46] * 7))
    torch.testing.assert_close(estimate(clusters(1), bulk, query), expected)
    _, value = clusters(1).mass_and_value(query, clusters(1).summarise(bulk), torch.tensor([46] * 7), layers.SCALE)
    torch.testing.assert_close(value, bulk.values.mean(1).repeat_interleave(3, 0)[None, :, None].expand_as(value))


def test_separate_kinds_of_keys_are_found_and_one_gaussian_fails_there() -> None:
    centres = 6 * layers.draw(2, 4, 8, seed=5)
    keys = centres.repeat_interleave(64, 1) + 0.1 * layers.draw(2, 256, 8, seed=6)
    cache = LayerCache(0, keys, layers.draw(2, 256, 8, seed=7), layers.SCALE)
    bulk, query = Bulk.between(cache, 0, 256), layers.queries()
    mass, _ = layers.exact(query, bulk)
    errors = [(estimate(clusters(count), bulk, query) - mass).abs().mean() for count in (1, 4)]
    assert errors[1] < 0.05 < 1 < errors[0]


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


def test_clusters_in_few_bytes_are_the_full_ones_with_less() -> None:
    bulk, query = layers.bulk(), layers.queries()
    spec = {"kind": "clusters", "name": "c", "clusters": 3, "covariance": "full", "bits": 16}
    full, diagonal, held = (
        build({**spec, **given}, {}).summarise(bulk)
        for given in ({}, {"covariance": "diagonal"}, {"covariance": "diagonal", "bits": 4})
    )
    torch.testing.assert_close(diagonal.covariance, full.covariance.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(held.exact, (full.key, full.value))
    torch.testing.assert_close(held.key, rounded(full.key, 4))
    assert not torch.equal(held.value, full.value)
    mass = estimate(build({**spec, "covariance": "diagonal"}, {}), bulk, query)
    means = torch.einsum("bkgqd,kcd->bkgqc", query.view(-1, 2, 3, 7, 8), full.key) * layers.SCALE
    spread = torch.einsum("bkgqd,kd->bkgq", query.view(-1, 2, 3, 7, 8) ** 2, diagonal.covariance) * layers.SCALE**2
    terms = means + full.size.log()[:, None, None] + spread[..., None] * full.spread[:, None, None] / 2
    torch.testing.assert_close(mass, terms.logsumexp(-1).flatten(1, 2))
