"""Long pairs side by side, against torch."""

import pytest
import torch


@pytest.mark.parametrize(("groups", "size"), [(1, 1), (3, 1024), (2, 2500), (5, 1023)])
def test_long_pairs_keep_their_order(device, groups, size) -> None:
    from headscope.kernels.prefill.packing import pack

    generator = torch.Generator().manual_seed(size)
    long = torch.rand(groups, size, generator=generator) < torch.tensor([0.0, 1.0, 0.3, 0.01, 0.9][:groups])[:, None]
    pairs, counts = pack(long.to(device))
    for g in range(groups):
        assert pairs[g, : counts[g]].tolist() == long[g].nonzero().flatten().tolist()
