"""Mean and covariance of keys, and the log mass of keys whose scores are Gaussian (arXiv 2502.09647, QAdA).

Shapes: B prompts, H query heads, K KV heads, G = H // K query heads a KV head, Q queries, T keys, D head_dim.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from headscope.heads.chunked_matmul import chunked_matmul
from headscope.heads.mass import group_heads, precise

Covariance = Literal["full", "diagonal", "none"]


@dataclass(frozen=True)
class LowRank:
    """A covariance by its top eigenvectors, and the variance that these leave in each dimension.

    Attributes:
        factor: eigenvectors times the roots of their eigenvalues, [K, D, R].
        residual: [K, D], not negative.
    """

    factor: Tensor
    residual: Tensor

    @classmethod
    def of(cls, covariance: Tensor, rank: int) -> "LowRank":
        """Keep `rank` eigenvectors of [K, D, D]; no more than there are dimensions."""
        # eigh raises where it meets a NaN; the residual carries it on.
        values, vectors = torch.linalg.eigh(covariance.nan_to_num())
        factor = vectors[..., -rank:] * values[..., None, -rank:].clamp(min=0).sqrt()
        left = covariance.diagonal(dim1=1, dim2=2) - factor.square().sum(-1)
        return cls(factor, left.clamp(min=0))

    def along(self, grouped: Tensor) -> Tensor:
        """Variance q' Sigma q of grouped queries [B, K, G, Q, D]: [B, K, G, Q]."""
        rest = torch.einsum("bkgqd,kd->bkgq", grouped.square(), self.residual)
        return (grouped @ self.factor[:, None]).square().sum(-1) + rest


@dataclass(frozen=True)
class KeyMoments:
    """Count, mean and covariance of the rotated keys of each KV head.

    Attributes:
        count: keys seen, the same for every KV head.
        mean: [K, D], float32 or better.
        covariance: [K, D, D], divided by count.
    """

    count: int
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, keys: Tensor) -> "KeyMoments":
        """Moments of [K, T, D]; with no key at all the mean and covariance are zero."""
        keys = precise(keys)
        count = keys.shape[1]
        mean = keys.sum(1) / max(count, 1)
        centred = keys - mean[:, None]
        return cls(count, mean, chunked_matmul(centred, centred) / max(count, 1))

    def of_head(self, head: int | None, device: torch.device) -> "KeyMoments":
        """Those of one KV head, or of all if None, on a device."""
        some = slice(None) if head is None else slice(head, head + 1)
        return replace(self, mean=self.mean[some].to(device), covariance=self.covariance[some].to(device))

    def merge(self, other: "KeyMoments") -> "KeyMoments":
        """Moments of both sets of keys together (Chan, Golub and LeVeque 1983); order does not matter."""
        count = self.count + other.count
        if not count:
            return self
        share, shift = other.count / count, other.mean - self.mean
        spread = share * (1 - share) * shift[:, :, None] * shift[:, None, :]
        covariance = (1 - share) * self.covariance + share * other.covariance + spread
        return KeyMoments(count, self.mean + share * shift, covariance)

    def score_moments(
        self, query: Tensor, scale: float, covariance: Covariance | LowRank = "full"
    ) -> tuple[Tensor, Tensor]:
        """Mean and variance of the scores of keys with these moments, both [B, H, Q].

        Args:
            query: [B, H, Q, D].
            scale: factor of the scores.
            covariance: how much of it counts; a low rank replaces it.

        Raises:
            ShapeError: query heads are no multiple of the KV heads.
        """
        grouped = group_heads(precise(query), self.mean.shape[0]).to(self.mean.dtype)
        mean = torch.einsum("bkgqd,kd->bkgq", grouped, self.mean) * scale
        if isinstance(covariance, LowRank):
            spread = covariance.along(grouped)
        elif covariance == "full":
            spread = ((grouped @ self.covariance[:, None]) * grouped).sum(-1)
        elif covariance == "diagonal":
            spread = torch.einsum("bkgqd,kd->bkgq", grouped.square(), self.covariance.diagonal(dim1=1, dim2=2))
        else:
            spread = torch.zeros_like(mean)
        return mean.flatten(1, 2), (spread * scale**2).clamp(min=0).flatten(1, 2)


def gaussian_log_mass(mean: Tensor, variance: Tensor, size: Tensor, capped: bool = False) -> Tensor:
    """Expected logsumexp of `size` Gaussian scores, [B, H, Q]; -inf where size is 0.

    The mean of exp(s) for Gaussian s is log-normal: log n + mean + variance / 2. Beyond sigma = sqrt(2 log n) that mean
    is carried by keys which n draws do not contain; `capped` then takes the expected maximum,
    mean + sigma sqrt(2 log n) (the random energy model's frozen phase, Derrida 1981).
    """
    log_size = size.to(mean.dtype).log()
    free = log_size + mean + variance / 2
    if not capped:
        return free
    sigma, limit = variance.sqrt(), (2 * log_size.clamp(min=0)).sqrt()
    frozen = torch.where(size > 0, mean + sigma * limit, -torch.inf)
    return torch.where(sigma <= limit, free, frozen)


def frozen_tilt(variance: Tensor, size: int) -> Tensor:
    """How far the attention over `size` Gaussian scores of this variance moves their mean, [B, H, Q], at most 1.

    Their mean under their own exponentials is mean + variance; beyond sigma = sqrt(2 log n) no key lies so far, and it
    stays at the expected maximum, mean + sigma sqrt(2 log n) (Derrida 1981): see `gaussian_log_mass`, capped.
    """
    sigma, limit = variance.sqrt(), math.sqrt(2 * math.log(max(size, 1)))
    return torch.where(sigma > limit, limit / sigma, 1.0)
