"""Clusters of points by k-means, for KV heads with different numbers of points at once.

Shapes: K KV heads, N points, C clusters, D dimensions.
"""

import torch
from torch import Tensor

from headscope.heads.chunked_matmul import chunked_matmul

ROUNDS = 6


def kmeans(points: Tensor, count: Tensor, clusters: Tensor, most: int) -> Tensor:
    """Assign each point to a cluster, 0 or 1, [K, N, C], in a few rounds of Lloyd from evenly spaced points.

    Args:
        points: [K, N, D].
        count: how many points each KV head has, the first ones, [K, 1].
        clusters: how many clusters to make of them, [K, 1].
        most: C.
    """
    if not points.shape[1]:
        return points.new_zeros(len(points), 0, most)
    present = torch.arange(points.shape[1], device=points.device) < count
    place = torch.arange(most, device=points.device)
    gaps = (clusters - 1).clamp(min=1)
    start = ((2 * place * (count - 1) + gaps) // (2 * gaps)).minimum(count - 1).clamp(min=0)
    centres = points.gather(1, start[..., None].expand(-1, -1, points.shape[2]))
    for _ in range(ROUNDS):
        member = nearest(points, centres, place < clusters, present)
        size = member.sum(1)[..., None]
        centres = torch.where(size > 0, chunked_matmul(member, points) / size.clamp(min=1), centres)
    return nearest(points, centres, place < clusters, present)


def nearest(points: Tensor, centres: Tensor, usable: Tensor, present: Tensor | None = None) -> Tensor:
    """Assign each point to its nearest centre, 0 or 1, [K, N, C].

    Args:
        points: [K, N, D].
        centres: [K, C, D].
        usable: which centres may have points, bool [K, C].
        present: which of the N are points, bool [K, N]; None: all are.
    """
    half = (centres.square().sum(-1) / 2).masked_fill(~usable, torch.inf)
    index = torch.baddbmm(half[:, None], points, centres.transpose(1, 2), alpha=-1).argmin(-1, keepdim=True)
    member = index == torch.arange(centres.shape[1], device=index.device)
    return (member if present is None else member & present[..., None]).to(points.dtype)
