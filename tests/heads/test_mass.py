import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.errors import ShapeError
from headscope.heads import mass
from headscope.heads.mass import log_masses
from headscope.heads.window import Window


def reference(query, key, positions, window, scale):
    """Float64 numpy, one query and head at a time."""
    heads, kv_heads = query.shape[1], key.shape[1]
    local = np.full(query.shape[:3], -np.inf)
    bulk = np.full(query.shape[:3], -np.inf)
    for b, h, i in np.ndindex(*query.shape[:3]):
        t = int(positions[i])
        scores = key[b, h * kv_heads // heads].double().numpy() @ query[b, h, i].double().numpy() * scale
        for j in range(t + 1):
            side = local if j < window.sink or j > t - window.recent else bulk
            side[b, h, i] = np.logaddexp(side[b, h, i], scores[j])
    return local, bulk


def assert_matches_reference(batch, kv_heads, group, queries, keys, dim, window, dtype, tolerance):
    torch.manual_seed(keys * 31 + dim)
    query = torch.randn(batch, kv_heads * group, queries, dim, dtype=dtype) * 2
    key = torch.randn(batch, kv_heads, keys, dim, dtype=dtype)
    positions = torch.arange(keys - queries, keys)
    found = log_masses(query, key, positions, window, dim**-0.5)
    local, bulk = reference(query, key, positions, window, dim**-0.5)
    np.testing.assert_allclose(found.local.double().numpy(), local, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.bulk.double().numpy(), bulk, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(5, 40), st.integers(1, 17),
    st.builds(Window, sink=st.integers(0, 8), recent=st.integers(1, 20)),
)  # fmt: skip
def test_masses_equal_the_float64_reference_on_odd_shapes_and_groups(b, k, g, q, t, d, window) -> None:
    assert_matches_reference(b, k, g, q, t, d, window, torch.float32, 2e-5)


def test_half_precision_keys_are_summed_in_float32() -> None:
    assert_matches_reference(1, 2, 2, 3, 33, 16, Window(4, 8), torch.bfloat16, 1e-4)


def test_float64_stays_float64() -> None:
    assert_matches_reference(1, 1, 3, 4, 21, 8, Window(2, 5), torch.float64, 1e-12)


def test_chunking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(1, 4, 30, 8), torch.randn(1, 2, 50, 8)
    whole = log_masses(query, key, torch.arange(20, 50), Window(3, 7), 0.3)
    monkeypatch.setattr(mass, "MAX_SCORES", 4 * 50 * 7)
    parts = log_masses(query, key, torch.arange(20, 50), Window(3, 7), 0.3)
    torch.testing.assert_close(whole.local, parts.local)
    torch.testing.assert_close(whole.bulk, parts.bulk)


def test_a_window_over_all_keys_leaves_an_empty_bulk() -> None:
    found = log_masses(torch.randn(1, 2, 3, 4), torch.randn(1, 1, 9, 4), torch.tensor([2, 5, 8]), Window(4, 8), 1.0)
    assert torch.isneginf(found.bulk).all() and found.bulk_size.tolist() == [0, 0, 0]
    assert torch.isfinite(found.local).all()


def test_equal_scores_give_the_log_of_the_counts() -> None:
    found = log_masses(torch.zeros(1, 2, 1, 4), torch.randn(1, 1, 20, 4), torch.tensor([19]), Window(2, 6), 1.0)
    torch.testing.assert_close(found.local, torch.full((1, 2, 1), 8.0).log())
    torch.testing.assert_close(found.bulk, torch.full((1, 2, 1), 12.0).log())


def test_nan_shows_in_its_own_side_and_a_future_nan_nowhere() -> None:
    key = torch.randn(1, 1, 20, 4)
    key[0, 0, 5] = torch.nan
    key[0, 0, 19] = torch.nan
    found = log_masses(torch.randn(1, 1, 1, 4), key, torch.tensor([18]), Window(2, 6), 1.0)
    assert torch.isnan(found.bulk).all() and torch.isfinite(found.local).all()


def test_heads_that_are_no_multiple_of_kv_heads_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"query heads \(5\).*KV heads \(2\)"):
        log_masses(torch.randn(1, 5, 1, 4), torch.randn(1, 2, 9, 4), torch.tensor([8]), Window(1, 2), 1.0)
