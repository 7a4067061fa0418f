"""Triton kernels, each beside its torch reference: they know tensors and numbers alone."""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

LOG2E = 1 / math.log(2)
HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256


def serve(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors [..., D]: half precision on a GPU, no gradient asked, Triton there."""
    return find_spec("triton") is not None and all(
        x.is_cuda and x.dtype in HALF and x.shape[-1] <= MAX_HEAD_DIM and not x.requires_grad for x in tensors
    )


def padded(size: int) -> int:
    """The side of a tile that holds `size`: a power of two, 16 at least, as tensor cores ask."""
    return max(16, 1 << (size - 1).bit_length())
