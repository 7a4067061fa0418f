"""Clusters of KV heads that have different numbers of bulk keys, against a loop over keys and centres."""

import layers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import build
from headscope.heads.kmeans import ROUNDS
from headscope.heads.probe_metric import probe_metric
from headscope.heads.quantised import rounded

TOKENS, CLUSTERS = 46, 4
SPEC = {"kind": "clusters", "name": "c", "clusters": CLUSTERS, "covariance": "full", "bits": 6}
A_STEP = {"rtol": 0, "atol": 0.005}
"""Of what is held in few bits, about a centre in half precision: last digits may decide which way that is rounded."""


def make(covariance: str):
    return build({**SPEC, "covariance": covariance}, {})


def picked(counts: tuple[int, int], seed: int) -> torch.Tensor:
    """So many keys of each KV head by chance, bool [K, N]."""
    order = layers.draw(2, TOKENS, seed=seed).argsort(1).argsort(1)
    return order < torch.tensor(counts)[:, None]


def written_out(keys: torch.Tensor, metric: torch.Tensor) -> list[list[int]]:
    """Which keys are in each cluster of one KV head, [N, D] in float64."""
    points, clusters = keys @ metric, min(CLUSTERS, len(keys))
    centres = [points[round(i * (len(keys) - 1) / max(clusters - 1, 1))] for i in range(clusters)]
    for step in range(ROUNDS + 1):
        members: list[list[int]] = [[] for _ in centres]
        for j, point in enumerate(points):
            members[min(range(clusters), key=lambda i: float((point - centres[i]).norm()))].append(j)
        if step < ROUNDS:
            centres = [points[m].mean(0) if m else old for m, old in zip(members, centres, strict=True)]
    return members


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@settings(max_examples=30, deadline=None)
@given(counts=st.tuples(st.integers(0, TOKENS), st.integers(0, TOKENS)), seed=st.integers(0, 99))
def test_clusters_are_those_of_each_head_written_out(covariance: str, counts: tuple[int, int], seed: int) -> None:
    bulk, mask = layers.bulk(seed=seed), picked(counts, seed)
    found, metric = make(covariance).summarise(bulk.where(mask)), probe_metric(bulk, torch.float64)
    for head in range(2):
        keys, values = bulk.keys[head, mask[head]], bulk.values[head, mask[head]]
        members = written_out(keys, metric[head]) if len(keys) else [[]]
        rest, means = torch.zeros_like(keys), []
        for i, some in enumerate(members):
            assert found.size[head, i] == len(some)
            means.append([x[some].mean(0) if some else x.new_zeros(8) for x in (keys, values)])
            rest[some] = keys[some] - means[-1][0]
        apart = (rest @ metric[head]).square().sum(1)
        exact = [torch.stack(of) for of in zip(*means, strict=True)]
        expected = rest.T @ rest / max(len(keys), 1)
        expected = expected if covariance == "full" else expected.diagonal()
        torch.testing.assert_close(found.covariance[head], expected)
        for i, some in enumerate(members):
            spread = apart[some].mean() / apart.mean() if some and apart.mean() > 0 else torch.tensor(0.0)
            torch.testing.assert_close(found.spread[head, i].float(), spread.float())
        pairs = zip(exact, found.exact, (found.key, found.value), strict=True)
        for of, held, in_bits in pairs:
            torch.testing.assert_close(held[head, : len(members)], of)
            torch.testing.assert_close(in_bits[head, : len(members)], rounded(of[None], 6)[0], **A_STEP)
        assert not found.size[head, len(members) :].any() and not found.exact[0][head, len(members) :].any()


@settings(max_examples=30, deadline=None)
@given(counts=st.tuples(st.integers(0, TOKENS), st.integers(0, TOKENS)), seed=st.integers(0, 99))
def test_heads_summarised_at_once_answer_as_each_alone(counts: tuple[int, int], seed: int) -> None:
    estimator, query = make("full"), layers.queries()
    bulk = layers.bulk(seed=seed).where(picked(counts, seed))
    sizes = torch.tensor([[count + 4] * 7 for count in counts])
    whole = estimator.summarise(bulk)
    mass, value = estimator.mass_and_value(query, whole, sizes.repeat_interleave(3, 0), layers.SCALE)
    for head in range(2):
        alone, heads = estimator.summarise(layers.of_head(bulk, head)), slice(3 * head, 3 * head + 3)
        of_head = estimator.mass_and_value(query[:, heads], alone, sizes[head], layers.SCALE)
        torch.testing.assert_close((mass[:, heads], value[:, heads]), of_head)


@settings(max_examples=30, deadline=None)
@given(counts=st.tuples(st.integers(0, TOKENS), st.integers(0, TOKENS)), joining=st.integers(0, 5), alike=st.booleans())
def test_heads_updated_at_once_hold_what_each_holds_alone(counts: tuple[int, int], joining: int, alike: bool) -> None:
    estimator, bulk = make("full"), layers.bulk()
    if alike:  # all keys in one of the clusters that are made
        bulk.cache.keys.zero_()
    bulk = bulk.where(picked(counts, 0))
    keys, values = (layers.draw(2, joining, 8, seed=seed) for seed in (5, 6))
    before = estimator.summarise(bulk)
    whole = estimator.update(before, keys, values)
    for head in range(2):
        one = slice(head, head + 1)
        alone = estimator.update(estimator.summarise(layers.of_head(bulk, head)), keys[one], values[one])
        there = alone.size.shape[1]
        assert torch.equal(whole.size[one, :there], alone.size) and not whole.size[one, there:].any()
        for found, expected in zip(whole.exact, alone.exact, strict=True):
            torch.testing.assert_close(found[one, :there], expected)
        for found, expected in ((whole.key, alone.key), (whole.value, alone.value)):
            torch.testing.assert_close(found[one, :there], expected, **A_STEP)
    if not joining:
        torch.testing.assert_close((whole.key, whole.value), (before.key, before.value))


def test_keys_behind_those_of_a_head_are_zero_whatever_stands_in_the_cache() -> None:
    bulk = layers.bulk()
    bulk.cache.keys[0, 20], bulk.cache.values[0, 20] = torch.inf, torch.nan
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    mask[0, 16] = False
    found = bulk.where(mask)
    assert found.count.tolist() == [45, 46]
    assert found.index[0, :45].tolist() == [*range(4, 20), *range(21, 50)]
    assert not found.keys[0, 45].any() and not found.values[0, 45].any()
    summary = make("full").summarise(found)
    assert summary.key.isfinite().all() and summary.covariance.isfinite().all()


def test_a_key_that_is_not_a_number_stays_in_its_head() -> None:
    bulk, mask = layers.bulk(), picked((30, 40), 1)
    expected = make("full").summarise(bulk.where(mask))
    bulk.cache.keys[0, 4 + int(mask[0].int().argmax())] = torch.nan
    found = make("full").summarise(bulk.where(mask))
    assert found.covariance[0].isnan().any()
    for name in ("size", "key", "value", "covariance", "spread"):
        torch.testing.assert_close(getattr(found, name)[1], getattr(expected, name)[1])


def test_a_bulk_of_as_many_keys_everywhere_is_whole() -> None:
    bulk = layers.bulk()
    assert bulk.where(torch.ones(2, TOKENS, dtype=torch.bool)) is bulk
    assert isinstance(bulk.where(picked((9, 9), 0)), Bulk) and bulk.where(picked((9, 9), 0)).present is None
