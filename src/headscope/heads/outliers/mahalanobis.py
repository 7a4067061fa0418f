"""Keys far from the others: (k - mean)' Sigma^-1 (k - mean), in float64.

Shapes: K KV heads, N bulk keys, D head_dim.
"""

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk

RIDGE = 1e-6
"""Added to the covariance, as a share of its mean variance: fewer keys than dimensions have no inverse."""


def importance(bulk: Bulk) -> Tensor:
    """Squared Mahalanobis distance, [K, N]."""
    centred = bulk.keys.double()
    centred = centred - centred.mean(1, keepdim=True)
    covariance = centred.transpose(1, 2) @ centred / centred.shape[1]
    mean_variance = covariance.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=torch.finfo(torch.float64).tiny)
    ridge = RIDGE * mean_variance[:, None, None] * torch.eye(centred.shape[2], device=centred.device)
    factor = torch.linalg.cholesky(covariance + ridge)
    whitened: Tensor = torch.linalg.solve_triangular(factor, centred.transpose(1, 2), upper=False)
    return whitened.square().sum(1)
