"""Which tensors the kernels serve."""

from types import SimpleNamespace

import pytest
import torch

from headscope.kernels.common.device import serve


def test_kernels_serve_half_precision_on_a_gpu_alone(device) -> None:
    half, single = (torch.zeros(1, 1, 1, 64, device=device, dtype=t) for t in (torch.bfloat16, torch.float32))
    assert serve(half) == (device == "cuda")
    assert not serve(half, single)
    assert not serve(torch.zeros(1, 257, device=device, dtype=torch.bfloat16))
    assert not serve(half.clone().requires_grad_())


@pytest.mark.parametrize(("room", "widest"), [(227, 256), (163, 256), (99, 128)])
def test_wide_heads_are_served_where_the_shared_memory_is_ample(monkeypatch, room, widest) -> None:
    properties = SimpleNamespace(shared_memory_per_block=48 * 1024, shared_memory_per_block_optin=room * 1024)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert serve(torch.zeros(1, widest).half())
    assert not serve(torch.zeros(1, widest + 1).half())
