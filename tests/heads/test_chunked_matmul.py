"""Sums in parts against the whole product."""

import pytest
import torch

from headscope.heads import chunked_matmul as sums


@pytest.mark.parametrize("keys", [0, 1, 6, 7, 8, 50, 61])
def test_a_sum_in_parts_is_the_product(monkeypatch, keys) -> None:
    monkeypatch.setattr(sums, "LONGEST", 7)
    generator = torch.Generator().manual_seed(keys)
    x, y = (torch.randn(3, keys, size, generator=generator, dtype=torch.float64) for size in (4, 5))
    assert torch.allclose(sums.chunked_matmul(x, y), x.transpose(1, 2) @ y, rtol=1e-12, atol=1e-12)
    even = sums.pad_to_chunks(x)
    assert sums.pad_to_chunks(even) is even and len(even) == 3 and even.shape[1] < keys + -(-keys // 7) + 1
    assert torch.equal(even[:, :keys], x) and not even[:, keys:].any()
