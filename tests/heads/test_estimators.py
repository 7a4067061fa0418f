"""What every estimator promises: exact limits, shifts, sizes, precision."""

import layers
import pytest
import torch

from headscope.heads.bulk import Bulk, LayerCache, Probes
from headscope.heads.estimators import ValueEstimator, build

GAUSSIAN = {"kind": "gaussian", "name": "e", "covariance": "full", "moments": "prompt"}
SPECS = {
    "gaussian": GAUSSIAN,
    "diagonal": {**GAUSSIAN, "covariance": "diagonal"},
    "clusters": {"kind": "clusters", "name": "e", "clusters": 4, "covariance": "full", "bits": 16},
    "clusters_diagonal": {"kind": "clusters", "name": "e", "clusters": 3, "covariance": "diagonal", "bits": 16},
    "clusters_in_bits": {"kind": "clusters", "name": "e", "clusters": 4, "covariance": "diagonal", "bits": 8},
}
every = pytest.mark.parametrize("name", SPECS)


def make(name: str) -> ValueEstimator:
    found = build(SPECS[name], {})
    assert isinstance(found, ValueEstimator)
    return found


def mass(estimator, bulk: Bulk, query: torch.Tensor, size: int | None = None) -> torch.Tensor:
    sizes = torch.full(query.shape[2:3], bulk.index.shape[1] if size is None else size)
    return estimator.log_mass(query, estimator.summarise(bulk), sizes, layers.SCALE)


def without_probes(bulk: Bulk, keys: torch.Tensor | None = None) -> Bulk:
    keys = bulk.cache.keys if keys is None else keys
    return Bulk(LayerCache(1, keys, bulk.cache.values, layers.SCALE), bulk.index)


@pytest.mark.parametrize("probes", [0, 5])
def test_as_many_clusters_as_keys_are_exact(probes: int) -> None:
    bulk, query, estimator = (
        layers.bulk(probes=probes),
        layers.queries(),
        build({**SPECS["clusters"], "clusters": 46}, {}),
    )
    expected, value = layers.exact(query, bulk)
    torch.testing.assert_close(mass(estimator, bulk, query), expected)
    _, mean = estimator.mass_and_value(query, estimator.summarise(bulk), torch.tensor([46] * 7), layers.SCALE)
    torch.testing.assert_close(mean, value)


@every
def test_a_shift_of_all_keys_shifts_the_log_mass(name: str) -> None:
    bulk, query, shift = without_probes(layers.bulk()), layers.queries(), 3 * layers.draw(8, seed=3)
    expected = mass(make(name), bulk, query) + (query @ shift) * layers.SCALE
    moved = mass(make(name), without_probes(bulk, bulk.cache.keys + shift), query)
    # What is held in bits keeps 8 of the bits of its mean, which the shift moves.
    tolerance = 0.1 if name == "clusters_in_bits" else 1e-5
    torch.testing.assert_close(moved, expected, rtol=tolerance, atol=tolerance)


@every
def test_the_true_size_counts_and_no_bulk_has_no_mass(name: str) -> None:
    bulk, query = layers.bulk(), layers.queries()
    assert torch.isneginf(mass(make(name), bulk, query, 0)).all()
    once, twice = mass(make(name), bulk, query), mass(make(name), bulk, query, 92)
    torch.testing.assert_close(twice, once + torch.tensor(2.0).log())


@every
def test_an_empty_summary_takes_scores_of_zero_and_no_value(name: str) -> None:
    bulk, query = layers.bulk(first=16, last=8), layers.queries(2)
    found = mass(make(name), bulk, query, 3)
    torch.testing.assert_close(found, torch.full((2, 6, 2), 3.0, dtype=torch.float64).log())
    assert torch.isneginf(mass(make(name), bulk, query, 0)).all()
    _, value = make(name).mass_and_value(query, make(name).summarise(bulk), torch.tensor([3, 3]), layers.SCALE)
    assert (value == 0).all()


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_its_float_copy(name: str, dtype: torch.dtype) -> None:
    half, query = layers.bulk(dtype=dtype), layers.queries(dtype=dtype)
    cache, probes = half.cache, half.cache.probes
    probes = Probes(probes.queries.float(), probes.weight.float())
    whole = Bulk(LayerCache(1, cache.keys.float(), cache.values.float(), layers.SCALE, probes), half.index)
    found, expected = mass(make(name), half, query), mass(make(name), whole, query.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@every
def test_float32_is_near_float64_and_a_query_or_key_that_is_nan_stays_nan(name: str) -> None:
    bulk, query = without_probes(layers.bulk()), layers.queries()
    single = Bulk(LayerCache(1, bulk.cache.keys.float(), bulk.cache.values.float(), layers.SCALE), bulk.index)
    found, expected = mass(make(name), single, query.float()), mass(make(name), bulk, query)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    query[0, 0, 0, 0] = torch.nan
    missing = torch.isnan(mass(make(name), bulk, query))
    assert missing[0, 0, 0] and missing.sum() == 1


@pytest.mark.parametrize("name", ["gaussian", "diagonal"])
def test_a_key_that_is_nan_is_not_hidden(name: str) -> None:
    bulk, query = without_probes(layers.bulk()), layers.queries()
    bulk.cache.keys[0, 4:50, 2] = torch.nan
    missing = torch.isnan(mass(make(name), bulk, query))
    assert missing[:, :3].all() and not missing[:, 3:].any()


@pytest.mark.parametrize("name", ["gaussian", "diagonal", "clusters"])
def test_gaussian_keys_are_estimated_better_the_more_there_are(name: str) -> None:
    query, errors = 0.7 * layers.queries(20), []
    for tokens in (50, 5000):
        bulk = layers.bulk(tokens=tokens, first=0, last=tokens, probes=0)
        errors.append((mass(make(name), bulk, query) - layers.exact(query, bulk)[0]).abs().mean())
    assert errors[1] < errors[0] and errors[1] < 0.05
