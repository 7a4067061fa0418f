import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.heads import mass
from headscope.heads.window import Window

WINDOW = Window(sink=5, recent=20)


def drawn(device, dtype, batch=1, kv_heads=2, group=3, queries=70, keys=150, dim=64, norm=2.0):
    torch.manual_seed(keys * 31 + dim + group)
    query = torch.randn(batch, kv_heads * group, queries, dim, device=device) * norm
    key = torch.randn(batch, kv_heads, keys, dim, device=device)
    return query.to(dtype), key.to(dtype), torch.arange(keys - queries, keys, device=device)


def by_kernel(query, key, positions, window, scale):
    from headscope.kernels.mass.masses import masses

    return masses(query, key, positions, window.sink, window.recent, scale)


def assert_exact(query, key, positions, window, scale, tolerance=1e-4):
    local, bulk = by_kernel(query, key, positions, window, scale)
    expected = mass.log_masses(query.double(), key.double(), positions, window, scale)
    torch.testing.assert_close(local.double(), expected.local, rtol=1e-5, atol=tolerance, equal_nan=True)
    torch.testing.assert_close(bulk.double(), expected.bulk, rtol=1e-5, atol=tolerance, equal_nan=True)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 2), st.integers(1, 2), st.sampled_from([1, 2, 3, 7, 16]), st.integers(1, 90), st.integers(0, 200),
    st.sampled_from([16, 40, 64, 80, 128, 256]),
    st.builds(Window, sink=st.integers(0, 80), recent=st.integers(1, 140)),
)  # fmt: skip
def test_masses_equal_the_float64_reference_on_odd_shapes_groups_and_windows(
    device, dtype, batch, kv_heads, group, queries, before, dim, window
) -> None:
    query, key, positions = drawn(device, dtype, batch, kv_heads, group, queries, before + queries, dim)
    assert_exact(query, key, positions, window, dim**-0.5)


@pytest.mark.parametrize("group", [1, 3, 4, 8, 16])
@pytest.mark.parametrize(
    ("queries", "before", "window"), [(1, 0, WINDOW), (131, 250, WINDOW), (257, 0, Window(140, 9))]
)
def test_masses_of_head_dim_128_equal_the_float64_reference(device, dtype, group, queries, before, window) -> None:
    query, key, positions = drawn(device, dtype, 2, 2, group, queries, before + queries, 128)
    assert_exact(query, key, positions, window, 128**-0.5)


def test_long_queries_are_as_exact(device, dtype) -> None:
    query, key, positions = drawn(device, dtype, group=4, queries=301, keys=301, dim=128, norm=20.0)
    assert_exact(query, key, positions, WINDOW, 128**-0.5, 3e-5)  # the products of such lengths are rounded by 1e-5


@pytest.mark.parametrize("norm", [0.0, 40.0])
def test_a_side_far_below_the_other_is_as_exact(device, dtype, norm) -> None:
    query, key, positions = drawn(device, dtype, norm=norm)
    key[:, :, :40] *= 8  # scores of hundreds on both sides, and far apart
    assert_exact(query, key, positions, WINDOW, 64**-0.5, 2e-3)


@pytest.mark.parametrize("dim", [64, 128])
def test_a_query_that_is_nan_harms_no_other(device, dtype, dim) -> None:
    query, key, positions = drawn(device, dtype, dim=dim)
    query[0, 2, 50] = torch.nan
    assert_exact(query, key, positions, WINDOW, 0.1)
    assert by_kernel(query, key, positions, WINDOW, 0.1)[0].isnan().sum() == 1


@pytest.mark.parametrize("dim", [64, 128])
def test_positions_may_be_a_sample_in_any_order(device, dtype, dim) -> None:
    query, key, _ = drawn(device, dtype, queries=9, dim=dim)
    positions = torch.tensor([149, 3, 77, 30, 24, 25, 0, 148, 60], device=device)
    assert_exact(query, key, positions, WINDOW, 0.1)


@pytest.mark.parametrize("dim", [40, 128])
def test_nothing_outside_the_tensors_is_read(device, dtype, dim) -> None:
    query, key, positions = drawn(device, dtype, queries=7, keys=70, dim=dim)
    around = torch.full((1, 2, 200, dim + 8), torch.nan, device=device, dtype=dtype)
    around[:, :, 30:100, :dim] = key
    wide = torch.full((1, 7, 6, dim + 8), torch.nan, device=device, dtype=dtype)
    wide[..., :dim] = query.transpose(1, 2)
    assert_exact(wide[..., :dim].transpose(1, 2), around[:, :, 30:100, :dim], positions, WINDOW, 0.1)


@pytest.mark.parametrize("dim", [64, 128])
def test_nan_shows_in_its_own_side_and_a_future_nan_nowhere(device, dtype, dim) -> None:
    query, key, _ = drawn(device, dtype, queries=2, keys=100, dim=dim)
    key[0, 0, 50], key[0, 1, 99] = torch.nan, torch.nan
    local, bulk = by_kernel(query, key, torch.tensor([98, 60], device=device), WINDOW, 0.1)
    assert torch.isnan(bulk[0, :3, 0]).all() and torch.isfinite(bulk[0, 3:]).all()
    assert torch.isnan(local[0, :3, 1]).all() and torch.isfinite(local[0, 3:]).all()
    assert torch.isfinite(local[0, :3, 0]).all() and torch.isfinite(bulk[0, :3, 1]).all()


def test_masses_are_of_single_precision_whatever_the_default_is(device, dtype) -> None:
    query, key = drawn(device, dtype)[:2]
    torch.set_default_dtype(torch.float64)
    try:
        assert {x.dtype for x in by_kernel(query, key, torch.arange(80, 150, device=device), WINDOW, 0.1)} == {
            torch.float32
        }
    finally:
        torch.set_default_dtype(torch.float32)
