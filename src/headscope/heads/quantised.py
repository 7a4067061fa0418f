"""Vectors in few bits, rotated and rounded one by one about their mean: outlier keys and values, means of clusters.

A Hadamard rotation first spreads the few large numbers of a vector over all of them (QuaRot, arXiv 2404.00456), so that
no one number makes the steps wide. It is its own inverse and never read; a query is turned once for the scores and once
back for the values, D log D additions each. Of D only the largest power of two that divides it is mixed.

Shapes: K KV heads, M vectors, D head_dim.
"""

from functools import cache

import torch
from torch import Tensor

FULL = 16
"""From this number of bits on, a vector stays as the model has it."""


def rounded(vectors: Tensor, bits: int, about: Tensor | None = None) -> Tensor:
    """Round [K, M, D] to `bits` a number: 2^bits equal steps between each vector's least and largest number.

    Steps start from the vector's distance to `about`, [K, 1, D], by default the mean over M; that, the least number and
    the step have 16 bits.
    """
    if bits >= FULL or not vectors.shape[1]:
        return vectors
    centre = (vectors.float().mean(1, keepdim=True) if about is None else about).bfloat16().float()
    turn = hadamard(vectors.shape[-1], vectors.device).float()
    apart = (vectors.float() - centre) @ turn
    low, high = apart.amin(-1, keepdim=True).bfloat16().float(), apart.amax(-1, keepdim=True)
    # Rounded up, so that the last step reaches the largest number in spite of the 8 bits that bfloat16 keeps.
    step = ((high - low) * (1 + 2**-7) / (2**bits - 1)).bfloat16().float()
    code = ((apart - low) / step.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(0, 2**bits - 1)
    result: Tensor = (centre + (low + code * step) @ turn).to(vectors.dtype)
    return result


@cache
def hadamard(size: int, device: torch.device | None = None) -> Tensor:
    """Return the symmetric orthogonal Hadamard matrix, [size, size]; blocks of it where size is no power of two."""
    width = size & -size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.kron(torch.eye(size // width, dtype=matrix.dtype), matrix / width**0.5).to(device)


def vectors_bytes(count: int, bits: int, head_dim: int, width: int) -> float:
    """Return the bytes of `count` vectors: the codes, least number and step of each, and their mean.

    Args:
        count: vectors.
        bits: of a number.
        head_dim: numbers of a vector.
        width: bytes of a number of the model, which unrounded vectors have.
    """
    if bits >= FULL:
        return count * head_dim * width
    return count * (head_dim * bits / 8 + 4) + 2 * head_dim
