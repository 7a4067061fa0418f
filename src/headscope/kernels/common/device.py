"""Properties of a GPU that the kernels depend on: the tensors that they serve, shared memory, sizes of tiles."""

import math
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

LOG2E = 1 / math.log(2)
HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM, NARROW = 256, 128
"""Largest head_dim; on GPUs with less shared memory than AMPLE, NARROW."""
AMPLE = 160 * 1024
"""Bytes of shared memory a program, as an A100 or H100 has; consumers' GPUs have 99 KiB."""


@cache
def installed() -> bool:
    """Return whether Triton is, which is no part of a CPU build of torch."""
    return find_spec("triton") is not None


def serve(*tensors: Tensor) -> bool:
    """Return whether the kernels take tensors [..., D]: half precision on a GPU, no gradients, Triton installed."""
    return installed() and all(
        x.is_cuda and x.dtype in HALF and x.shape[-1] <= (MAX_HEAD_DIM if ample(x) else NARROW) and not x.requires_grad
        for x in tensors
    )


def padded(size: int) -> int:
    """Return the side of a tile that holds `size`: a power of two, 16 or more, as tensor cores need."""
    return max(16, 1 << (size - 1).bit_length())


def processors(x: Tensor) -> int:
    """Return the multiprocessors of the GPU that holds x; on a CPU, for the interpreter, five."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 5


def ample(x: Tensor) -> bool:
    """Return whether the GPU that holds x has much shared memory; a CPU has."""
    if not x.is_cuda:
        return True
    properties = torch.cuda.get_device_properties(x.device)
    return getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block) >= AMPLE
