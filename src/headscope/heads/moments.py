"""Mean and covariance of keys, and the log mass of keys whose scores are Gaussian (arXiv 2502.09647, QAdA).

Shapes: B prompts, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, T keys, D head_dim.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headscope.heads.chunked_matmul import chunked_matmul
from headscope.heads.mass import group_heads, precise, times_by_head

Covariance = Literal["full", "diagonal"]


@dataclass(frozen=True)
class KeyMoments:
    """Count, mean and covariance of the rotated keys of each KV head.

    Attributes:
        count: number of keys, the same for every KV head.
        mean: [K, D], float32 or better.
        covariance: [K, D, D], divided by count.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> "KeyMoments":
        """Compute the moments of [K, T, D]; with no key at all the mean and covariance are zero."""
        keys = precise(keys)
        count = keys.shape[1]
        mean = keys.sum(1) / max(count, 1)
        centred = keys - mean[:, None]
        return cls(count, mean, chunked_matmul(centred, centred) / max(count, 1))

    def merge(self, other: "KeyMoments") -> "KeyMoments":
        """Return the moments of both sets of keys together (Chan, Golub and LeVeque 1983); order does not matter."""
        count = self.count + other.count
        if not count:
            return self
        share, shift = other.count / count, other.mean - self.mean
        spread = share * (1 - share) * shift[:, :, None] * shift[:, None, :]
        covariance = (1 - share) * self.covariance + share * other.covariance + spread
        return KeyMoments(count, self.mean + share * shift, covariance)

    def score_moments(self, query: Tensor, scale: float, covariance: Covariance = "full") -> tuple[Tensor, Tensor]:
        """Return mean and variance of the scores of keys with these moments, both [B, H, Q].

        Args:
            query: [B, H, Q, D].
            scale: factor of the scores.
            covariance: how much of it counts.

        Raises:
            ShapeError: query heads are no multiple of the KV heads.
        """
        grouped = group_heads(precise(query), self.mean.shape[0]).to(self.mean.dtype)
        mean = times_by_head(grouped, self.mean[..., None])[..., 0] * scale
        if covariance == "full":
            spread = (times_by_head(grouped, self.covariance) * grouped).sum(-1)
        else:
            spread = torch.einsum("bkgqd,kd->bkgq", grouped.square(), self.covariance.diagonal(dim1=1, dim2=2))
        return mean.flatten(1, 2), (spread * scale**2).clamp(min=0).flatten(1, 2)


def gaussian_log_mass(mean: Tensor, variance: Tensor, size: Tensor) -> Tensor:
    """Return the expected logsumexp of `size` Gaussian scores, [B, H, Q]; -inf where size is 0.

    The mean of exp(s) for Gaussian s is log-normal: log n + mean + variance / 2.
    """
    return torch.add(size.to(mean.dtype).log() + mean, variance, alpha=0.5)
