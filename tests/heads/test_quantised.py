"""The rounding that makes outliers and means of clusters cheaper."""

import pytest
import torch

from headscope.heads.quantised import hadamard, rounded, vectors_bytes


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounding_errs_by_half_a_step_of_each_vector_at_most(bits: int) -> None:
    vectors = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 9, 16) + 30
    turn = hadamard(16).float()
    apart = (vectors - vectors.mean(1, keepdim=True)) @ turn
    step = (apart.amax(-1) - apart.amin(-1)) / (2**bits - 1)
    error = ((rounded(vectors, bits) - vectors) @ turn).abs().amax(-1)
    # bfloat16 keeps 8 bits of the vector's ends.
    assert (error <= 0.52 * step + apart.abs().amax(-1) * 2**-8).all()
    assert error.max() > 0.2 * step.min()


@pytest.mark.parametrize("size", [1, 8, 12, 64, 80, 96, 128])
def test_vectors_are_turned_there_and_back_by_the_same_matrix(size: int) -> None:
    turn = hadamard(size)
    torch.testing.assert_close(turn @ turn, torch.eye(size, dtype=torch.float64))
    assert torch.equal(turn, turn.T) and (turn != 0).sum() == size * (size & -size)


def test_one_large_number_does_not_spoil_the_others() -> None:
    vectors = torch.randn(1, 200, 64, generator=torch.Generator().manual_seed(0))
    vectors[:, ::2, 7] += 40
    error = (rounded(vectors, 4) - vectors)[..., :7].square().mean().sqrt()
    plain_step = (vectors.amax(-1) - vectors.amin(-1)).mean() / 15
    assert error < plain_step / 12**0.5 / 2


def test_sixteen_bits_are_the_models_own_and_equal_numbers_stay() -> None:
    vectors = torch.randn(1, 5, 8)
    assert rounded(vectors, 16) is vectors
    assert torch.isfinite(rounded(torch.full((1, 1, 8), 3.0), 4)).all()
    torch.testing.assert_close(rounded(torch.full((1, 3, 8), 3.0), 4), torch.full((1, 3, 8), 3.0))
    assert rounded(vectors[:, :0], 4).shape == (1, 0, 8)
    assert vectors_bytes(10, 16, 64, 2) == 1280 and vectors_bytes(10, 4, 64, 2) == 10 * 36 + 128
