import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import build
from headscope.heads.mass import log_masses
from headscope.heads.moments import KeyMoments, gaussian_log_mass
from headscope.heads.window import Window


def keys(kv_heads: int, count: int, dim: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(kv_heads, dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(kv_heads, count, dim, generator=generator, dtype=torch.float64) @ mix + mix[:, :1]


def test_moments_equal_numpy_in_float64() -> None:
    data = keys(3, 40, 5)
    found = KeyMoments.of(data)
    for head in range(3):
        np.testing.assert_allclose(found.mean[head], data[head].numpy().mean(0), rtol=1e-10)
        np.testing.assert_allclose(found.covariance[head], np.cov(data[head].numpy().T, bias=True), rtol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12))
def test_merging_is_order_free_and_equals_all_keys_at_once(a: int, b: int, c: int) -> None:
    data = keys(2, a + b + c, 4)
    parts = [KeyMoments.of(part) for part in data.split([a, b, c], dim=1)]
    left = parts[0].merge(parts[1]).merge(parts[2])
    right = parts[2].merge(parts[0].merge(parts[1]))
    whole = KeyMoments.of(data)
    for merged in (left, right):
        assert merged.count == whole.count
        torch.testing.assert_close(merged.mean, whole.mean)
        torch.testing.assert_close(merged.covariance, whole.covariance)


def test_score_moments_are_those_of_the_scores_themselves() -> None:
    data, query = keys(2, 30, 4), torch.randn(1, 6, 3, 4, dtype=torch.float64)
    mean, variance = KeyMoments.of(data).score_moments(query, 0.7)
    scores = torch.stack([query[0, h] @ data[h // 3].T * 0.7 for h in range(6)])
    torch.testing.assert_close(mean[0], scores.mean(-1))
    torch.testing.assert_close(variance[0], scores.var(-1, correction=0))


def test_the_estimate_converges_to_the_exact_mass_as_gaussian_keys_grow() -> None:
    torch.manual_seed(1)
    query = torch.randn(1, 2, 5, 8, dtype=torch.float64) * 0.5
    errors = []
    for count in (200, 20_000):
        data = torch.randn(1, 1, count, 8, dtype=torch.float64)
        window = Window(0, 1)
        exact = log_masses(query, data, torch.full((5,), count - 1), window, 0.5)
        moments = KeyMoments.of(data[0, :, :-1])
        estimate = gaussian_log_mass(*moments.score_moments(query, 0.5), exact.bulk_size)
        errors.append(float((estimate - exact.bulk).abs().max()))
    assert errors[1] < errors[0] / 3 and errors[1] < 0.02


def test_identical_keys_are_estimated_exactly() -> None:
    data = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 25, 8)
    query = torch.randn(1, 3, 2, 8, dtype=torch.float64)
    mean, variance = KeyMoments.of(data).score_moments(query, 1.0)
    torch.testing.assert_close(gaussian_log_mass(mean, variance, torch.tensor([25, 25])), mean + np.log(25))


def test_diagonal_and_mean_only_drop_what_they_say() -> None:
    data, query = keys(1, 60, 3), torch.randn(1, 1, 4, 3, dtype=torch.float64)
    moments = KeyMoments.of(data)
    kept = KeyMoments(moments.count, moments.mean, torch.diag_embed(moments.covariance.diagonal(dim1=1, dim2=2)))
    diagonal = moments.score_moments(query, 1.0, "diagonal")[1]
    torch.testing.assert_close(diagonal, kept.score_moments(query, 1.0, "full")[1])


def test_no_bulk_has_no_mass() -> None:
    mean = torch.zeros(1, 1, 2)
    assert torch.isneginf(gaussian_log_mass(mean, mean + 1, torch.tensor([0, 0]))).all()


def test_moments_of_another_text_replace_those_of_the_prompt() -> None:
    spec = {"kind": "gaussian", "name": "other", "covariance": "full", "moments": "random_words"}
    other = KeyMoments.of(keys(2, 9, 4, seed=7))
    estimator = build(spec, {"random_words": {3: other}})
    bulk = Bulk.between(LayerCache(3, keys(2, 30, 4), keys(2, 30, 4)), 2, 20)
    found = estimator.summarise(bulk).moments
    assert found.count == 9 and torch.equal(found.mean, other.mean) and torch.equal(found.covariance, other.covariance)
    own = build({**spec, "moments": "prompt"}, {}).summarise(bulk)
    torch.testing.assert_close(own.moments.mean, bulk.cache.keys[:, 2:20].mean(1))
