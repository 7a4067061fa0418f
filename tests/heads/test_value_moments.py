"""The value that attention over Gaussian keys and values has: against sums over tokens, gradients and large bulks."""

import layers
import pytest
import torch
from test_estimators import GAUSSIAN, build

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.moments import frozen_tilt

SPEC = {**GAUSSIAN, "values": "covariance"}


def value(bulk: Bulk, query: torch.Tensor, **options) -> torch.Tensor:
    estimator = build({**SPEC, **options}, {})
    return estimator.value(query, estimator.summarise(bulk), layers.SCALE)


def jointly_gaussian(tokens: int) -> Bulk:
    """Keys and values about a mean, with values that follow the keys in part."""
    keys, noise = layers.draw(2, tokens, 8, seed=1), layers.draw(2, tokens, 8, seed=2)
    values = keys @ layers.draw(2, 8, 8, seed=3) + 0.5 * noise + layers.draw(8, seed=4)
    return Bulk.between(LayerCache(1, keys + layers.draw(8, seed=5), values, layers.SCALE), 0, tokens)


def test_the_value_is_the_mean_moved_by_the_covariance_with_the_scores() -> None:
    bulk, query = layers.bulk(), layers.queries()
    found = value(bulk, query)
    for row in range(2):
        for head in range(6):
            keys, values = bulk.keys[head // 3], bulk.values[head // 3]
            for index, q in enumerate(query[row, head]):
                scores = keys @ q * layers.SCALE
                covariance = sum(
                    (s - scores.mean()) * (v - values.mean(0)) for s, v in zip(scores, values, strict=True)
                )
                torch.testing.assert_close(found[row, head, index], values.mean(0) + covariance / len(keys))


@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("factor", [0.5, 20])
def test_where_values_are_the_keys_the_value_is_the_log_masss_gradient(capped: bool, factor: float) -> None:
    cache = layers.layer(60)
    bulk = Bulk.between(LayerCache(1, cache.keys, cache.keys, layers.SCALE), 4, 50)
    query = (factor * layers.queries()).requires_grad_()
    estimator = build({**SPEC, "capped": capped}, {})
    mass = estimator.log_mass(query, estimator.summarise(bulk), torch.full((7,), 46), layers.SCALE)
    (gradient,) = torch.autograd.grad(mass.sum(), query)
    torch.testing.assert_close(value(bulk, query, capped=capped) * layers.SCALE, gradient)


def test_the_value_comes_nearer_to_the_exact_one_the_more_gaussian_tokens_there_are() -> None:
    query, errors = 0.7 * layers.queries(20), []
    for tokens in (100, 1000, 100_000):
        bulk = jointly_gaussian(tokens)
        exact = layers.exact(query, bulk)[1]
        errors.append((value(bulk, query) - exact).norm(dim=-1).mean())
        of_mean = (value(bulk, query, values="mean") - exact).norm(dim=-1).mean()
        assert errors[-1] < 0.7 * of_mean
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.02 * of_mean


def test_capped_values_are_moved_no_further_than_to_the_largest_score_expected() -> None:
    variance = torch.tensor([0.0, 1.0, 100.0, torch.nan])
    limit = (2 * torch.tensor(50.0).log()).sqrt()
    torch.testing.assert_close(frozen_tilt(variance, 50), torch.tensor([1.0, 1.0, limit / 10, 1.0]))
    assert frozen_tilt(torch.zeros(3), 0).tolist() == [1, 1, 1]
    query = 100 * layers.queries()
    bulk = jointly_gaussian(500)
    free, capped = (
        (value(bulk, query, capped=c) - value(bulk, query, values="mean")).norm(dim=-1) for c in (False, True)
    )
    assert (capped < free / 10).all() and (capped > 0).all()


def test_half_precision_is_that_of_its_float_copy_and_what_is_nan_is_not_hidden() -> None:
    half, query = layers.bulk(dtype=torch.bfloat16), layers.queries(dtype=torch.bfloat16)
    cache = LayerCache(1, half.cache.keys.float(), half.cache.values.float(), layers.SCALE)
    found = value(half, query)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value(Bulk(cache, half.index), query.float()))
    exact = LayerCache(1, cache.keys.double(), cache.values.double(), layers.SCALE)
    expected = value(Bulk(exact, half.index), query.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    exact.values[0, 20] = torch.nan
    missing = value(Bulk(exact, half.index), query.double()).isnan()
    assert missing[:, :3].all() and not missing[:, 3:].any()
