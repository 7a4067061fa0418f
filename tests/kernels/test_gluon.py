"""Which tensors the kernels for Hopper GPUs take."""

import pytest
import torch

from headscope.kernels.prefill import packed_hopper


@pytest.fixture(autouse=True)
def hopper(monkeypatch):
    """Tensors that say they are on a Hopper GPU."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def serves(query: torch.Tensor, key: torch.Tensor) -> bool:
    return packed_hopper.serves(query, key, key)


def test_hopper_serves_head_dim_128_in_half_precision_with_keys_at_multiples_of_16_bytes() -> None:
    query, key = torch.zeros(1, 6, 5, 128).half(), torch.zeros(1, 2, 9, 128).half()
    assert serves(query, key) and serves(query.bfloat16(), key.bfloat16())
    assert serves(query, key.transpose(1, 2).contiguous().transpose(1, 2))
    assert not serves(query[..., :64], key[..., :64]) and not serves(query.float(), key.float())
    assert not serves(query, key.bfloat16())
    wide = torch.zeros(1, 2, 9, 132).half()
    assert not serves(query, wide[..., :128]) and not serves(query, key[:, :1].expand(1, 2, 9, 128))
    assert not serves(query, torch.zeros(2 * 9 * 128 + 1).half()[1:].view(1, 2, 9, 128))


def test_other_gpus_are_not_served(monkeypatch) -> None:
    query, key = torch.zeros(1, 6, 5, 128).half(), torch.zeros(1, 2, 9, 128).half()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (10, 0))
    assert not serves(query, key)
