"""Attention over parts of the keys by the kernel, against torch in float64."""

import pytest
import torch

from headscope.kernels.parts import attend as kernel
from headscope.lab.parts import NEVER, Part, Piece, _plain, attend, hiding


def both(query, keys, values, hidden=None, scale=0.3) -> tuple[Part, Part]:
    """Parts by the kernel and by torch."""
    exact = _plain(*(x.double() for x in (query, keys, values)), None if hidden is None else hidden.double(), scale)
    return Part(*kernel.attend([(query, keys, values, hidden)], len(query), scale)), exact


def assert_equal(parts: tuple[Part, Part], seeing: torch.Tensor | None = None) -> None:
    for of_kernel, exact in zip(*parts, strict=True):
        chosen = ... if seeing is None else seeing
        torch.testing.assert_close(of_kernel[chosen].double(), exact[chosen], rtol=1e-5, atol=1e-5)


@pytest.fixture
def tensors(device: str):
    """Draw queries [B, N, D], keys and values [B, C, D]."""

    def draw(sets: int, queries: int, count: int, dim: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(count)
        return [torch.randn(sets, size, dim, generator=generator).to(device) for size in (queries, count, count)]

    return draw


@pytest.mark.parametrize("queries", [1, 7, 14, 63, 65, 182])
@pytest.mark.parametrize("count", [1, 17, 64, 333])
def test_any_number_of_queries_and_keys(tensors, queries: int, count: int) -> None:
    assert_equal(both(*tensors(2, queries, count, 32)))


@pytest.mark.parametrize("dim", [8, 64, 80, 128, 256])
def test_any_head_dim(tensors, dim: int) -> None:
    assert_equal(both(*tensors(3, 20, 150, dim), scale=dim**-0.5))


@pytest.mark.parametrize("processors", [1, 40, 1000])
def test_however_many_programs_share_the_keys(tensors, processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "processors", lambda _: processors)
    assert_equal(both(*tensors(2, 20, 700, 16)))


@pytest.mark.parametrize("sets", [1, 4])
@pytest.mark.parametrize("positions", [1, 5])
def test_hidden_keys_count_nothing(tensors, sets: int, positions: int) -> None:
    query, keys, values = tensors(4, 10, 200, 16)
    visible = torch.rand(sets, 1, positions, 200, generator=torch.Generator().manual_seed(0)) < 0.3
    visible[:, :, -1] = False  # the last position sees no key
    parts = both(query, keys, values, hiding(visible.to(query.device), query.dtype))
    seeing = visible[:, 0].any(-1).repeat(4 // sets, 10 // positions).to(query.device)
    assert_equal(parts, seeing)
    assert (parts[0].mass[~seeing] < NEVER / 2).all()
    assert torch.isfinite(parts[0].output).all()


def test_keys_that_lie_apart_in_memory(tensors) -> None:
    query, keys, values = tensors(2, 10, 120, 16)
    assert_equal(both(query.transpose(0, 1).contiguous().transpose(0, 1), keys[:, 3:77], values[:, 3:77]))


def test_half_precision_keys(tensors, dtype: torch.dtype) -> None:
    query, keys, values = tensors(2, 10, 120, 16)
    assert_equal(both(query, keys.to(dtype), values.to(dtype)))


def test_scores_that_differ_by_thousands(tensors) -> None:
    query, keys, values = tensors(2, 10, 120, 16)
    assert_equal(both(query, keys, values, scale=1000.0))


@pytest.mark.parametrize(("rows", "group", "own"), [(1, 1, 1), (5, 7, 20), (3, 4, 90)])
def test_keys_of_all_rows_and_of_each_row(tensors, rows: int, group: int, own: int) -> None:
    query, keys, values = tensors(2, rows * group, 150, 16)
    _, own_keys, own_values = tensors(rows * 2, 1, own, 16)
    by_row = query.view(2, rows, group, 16).transpose(0, 1).flatten(0, 1)
    hidden = hiding(torch.arange(own, device=query.device) > own // 2, query.dtype)[None, None, None]
    pieces = [Piece(query, keys, values), Piece(by_row, own_keys, own_values, hidden)]
    exact = attend([Piece(*(None if x is None else x.double() for x in piece)) for piece in pieces], 0.3, 2)
    assert_equal((Part(*kernel.attend(pieces, 2, 0.3)), exact))
