"""What a GPU offers the kernels: which tensors they serve, shared memory, sizes of tiles."""

import math
from importlib.util import find_spec

import torch
from torch import Tensor

LOG2E = 1 / math.log(2)
HALF = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM, NARROW = 256, 128
"""The second on GPUs with less shared memory than AMPLE."""
AMPLE = 160 * 1024
"""Bytes of shared memory: of an A100 or H100; consumers' GPUs have 99 KiB."""


def serve(*tensors: Tensor) -> bool:
    """Whether the kernels take these tensors [..., D]: half precision on a GPU, no gradient asked, Triton there."""
    return find_spec("triton") is not None and all(
        x.is_cuda and x.dtype in HALF and x.shape[-1] <= (MAX_HEAD_DIM if ample(x) else NARROW) and not x.requires_grad
        for x in tensors
    )


def padded(size: int) -> int:
    """The side of a tile that holds `size`: a power of two, 16 at least, as tensor cores ask."""
    return max(16, 1 << (size - 1).bit_length())


def processors(x: Tensor) -> int:
    """Multiprocessors of the GPU that holds x; on a CPU, for the interpreter, some."""
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 5


def ample(x: Tensor) -> bool:
    """Whether a program has much shared memory on the GPU that holds x; on a CPU it has."""
    if not x.is_cuda:
        return True
    properties = torch.cuda.get_device_properties(x.device)
    return getattr(properties, "shared_memory_per_block_optin", properties.shared_memory_per_block) >= AMPLE
