import torch

from headscope.heads.moments import KeyMoments


def test_summaries_are_the_moments_of_the_bulk_at_each_start(device, dtype) -> None:
    from headscope.kernels.prefill.prefix_moments import PrefixMoments

    key = torch.randn(1, 2, 200, 64, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    prefix = PrefixMoments.of(key, torch.tensor([30, 40, 100], device=device), 5, 20)
    for summary, last in enumerate((10, 20, 80)):
        moments = KeyMoments.of(key[0, :, 5:last].double())
        torch.testing.assert_close(prefix.mean[0, :, summary].double(), moments.mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(prefix.covariance[0, :, summary].double(), moments.covariance, rtol=2e-2, atol=2e-3)
    assert prefix.summary_of_token.tolist() == [0] * 40 + [1] * 60 + [2] * 100
