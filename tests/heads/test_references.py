"""Estimators against their definitions: one head, one query, one key at a time, in float64."""

import layers
import numpy as np
import pytest
import torch
from test_estimators import SPECS, build, make, mass, without_probes

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.moments import KeyMoments, LowRank


def by_query(bulk: Bulk, query: torch.Tensor, estimate) -> torch.Tensor:
    """Estimates of one query [D] with the keys [N, D] of its KV head: [B, H, Q]."""
    found = [[[estimate(q, bulk.keys[h // 3]) for q in queries] for h, queries in enumerate(row)] for row in query]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("tokens", [35, 41, 3])
def test_blocks_are_their_means_and_the_top_ones_their_keys(top: int, tokens: int) -> None:
    bulk, query = layers.bulk(last=4 + tokens), layers.queries()

    def estimate(q: torch.Tensor, keys: torch.Tensor) -> float:
        blocks = [keys[first : first + 5] for first in range(0, tokens, 5)]
        means = [float(block.mean(0) @ q) * layers.SCALE for block in blocks]
        exact = sorted(range(len(blocks)), key=lambda c: -means[c])[:top]
        terms = [float((block @ q * layers.SCALE).exp().sum()) for c, block in enumerate(blocks) if c in exact]
        terms += [len(block) * np.exp(means[c]) for c, block in enumerate(blocks) if c not in exact]
        return float(np.log(sum(terms)))

    estimator = build({**SPECS["blocks"], "top": top}, {})
    torch.testing.assert_close(mass(estimator, bulk, query), by_query(bulk, query, estimate))


def test_blocks_in_chunks_of_queries_are_those_at_once(monkeypatch) -> None:
    bulk, query = layers.bulk(), layers.queries()
    for name in ("blocks", "low_rank_keys"):
        summary = make(name).summarise(bulk)
        once = mass(make(name), bulk, query), make(name).value(query, summary, layers.SCALE)
        monkeypatch.setattr("headscope.heads.mass.MAX_SCORES", 1000)
        parts = mass(make(name), bulk, query), make(name).value(query, summary, layers.SCALE)
        monkeypatch.undo()
        for one, other in zip(once, parts, strict=True):
            torch.testing.assert_close(one, other)


def test_low_rank_keys_are_the_nearest_of_their_rank() -> None:
    bulk, query = without_probes(layers.bulk()), layers.queries()

    def estimate(q: torch.Tensor, keys: torch.Tensor) -> float:
        centred = (keys - keys.mean(0)).numpy()
        left, values, right = np.linalg.svd(centred, full_matrices=False)
        near = (left[:, :3] * values[:3]) @ right[:3] + keys.mean(0).numpy()
        return float(np.log(np.exp(near @ q.numpy() * layers.SCALE).sum()))

    torch.testing.assert_close(mass(make("low_rank_keys"), bulk, query), by_query(bulk, query, estimate))


def test_with_probes_no_other_keys_of_the_rank_come_nearer_to_their_scores() -> None:
    bulk = layers.bulk(probes=40)
    summary = make("low_rank_keys").summarise(bulk)
    for head in range(2):
        probes = bulk.cache.probes.queries[3 * head : 3 * head + 3].flatten(0, 1)
        centred = bulk.keys[head] - bulk.keys[head].mean(0)
        error = (centred @ probes.T - summary.keys[head] @ (probes @ summary.of_query[head]).T).square().sum()
        least = torch.linalg.svdvals(centred @ probes.T)[3:].square().sum()  # Eckart and Young 1936
        assert least * 0.999 < error < least * 1.01


def test_a_sample_is_drawn_without_replacement_and_evenly() -> None:
    cache, times = layers.layer(60), torch.zeros(2, 46)
    cache.keys[:] = torch.arange(60)[:, None]
    for seed in range(400):
        keys = make("sampled").summarise(Bulk.between(LayerCache(seed, cache.keys, cache.values), 4, 50)).keys[..., 0]
        assert (keys.sort(1).values.diff(dim=1) > 0).all()
        times += torch.stack([torch.bincount(row.long() - 4, minlength=46) for row in keys])
    assert ((times - 400 * 20 / 46).abs() < 5 * (400 * 20 / 46 * 26 / 46) ** 0.5).all()


def test_the_stated_error_of_a_sample_covers_the_mass_as_often_as_it_says() -> None:
    query, covered = 0.7 * layers.queries(20), []
    estimator, size = build({**SPECS["sampled"], "count": 128}, {}), torch.full((20,), 1000)
    for seed in range(30):
        keys = layers.draw(2, 1000, 8, seed=seed)
        bulk = Bulk.between(LayerCache(seed, keys, keys, layers.SCALE), 0, 1000)
        summary = estimator.summarise(bulk)
        off = estimator.log_mass(query, summary, size, layers.SCALE) - layers.exact(query, bulk)[0]
        error = estimator.standard_error(query, summary, size, layers.SCALE)
        covered += [(off.abs() < factor * error).double().mean() for factor in (1, 2)]
    one, two = torch.stack(covered).view(-1, 2).mean(0)
    assert 0.62 < one < 0.74 and 0.92 < two < 0.98  # a normal error: .68 and .95


def test_a_whole_sample_has_no_error_and_a_single_key_tells_none() -> None:
    bulk, query = layers.bulk(), layers.queries()
    for count, expected in ((46, 0.0), (1, torch.inf)):
        estimator = build({**SPECS["sampled"], "count": count}, {})
        found = estimator.standard_error(query, estimator.summarise(bulk), torch.full((7,), 46), layers.SCALE)
        assert (found == expected).all() and found.shape == query.shape[:3]


def test_a_low_rank_covariance_is_whole_at_full_rank_and_along_every_dimension() -> None:
    bulk, query = layers.bulk(), layers.queries()
    whole = build({**SPECS["low_rank"], "rank": 8}, {})
    torch.testing.assert_close(mass(whole, bulk, query), mass(make("gaussian"), bulk, query))
    moments = KeyMoments.of(bulk.keys)
    axes = torch.eye(8, dtype=torch.float64).expand(1, 6, 8, 8)
    expected = moments.score_moments(axes, 1.0)[1]
    for rank in range(1, 8):
        found = moments.score_moments(axes, 1.0, LowRank.of(moments.covariance, rank))[1]
        torch.testing.assert_close(found, expected)


def test_a_covariance_of_few_dimensions_needs_no_more_eigenvectors() -> None:
    bulk, query = layers.bulk(), layers.queries()
    flat = without_probes(bulk, bulk.cache.keys[..., :3] @ layers.draw(3, 8, seed=4))
    torch.testing.assert_close(mass(make("low_rank"), flat, query), mass(make("gaussian"), flat, query))
    assert (mass(make("diagonal"), flat, query) - mass(make("gaussian"), flat, query)).abs().max() > 0.1


def test_outliers_in_bits_are_scored_as_they_are_kept() -> None:
    bulk, query = layers.bulk(), layers.queries()
    kept = [make(name).summarise(bulk).keys for name in ("gaussian_outliers", "outliers_in_bits")]
    apart = (kept[0] - kept[1]).abs().max()
    assert 0.01 < apart < 0.5
    errors = [(mass(make(name), bulk, query) - layers.exact(query, bulk)[0]).abs().mean() for name in SPECS]
    assert errors[list(SPECS).index("outliers_in_bits")] < errors[list(SPECS).index("none")]
