"""Shared by the kernels in Gluon: the language, if this Triton has it, the tensors that they take, a tile's scores.

Shapes: R = 64 rows of a warpgroup, N keys of a tile, D head_dim.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import HALF

__all__ = [
    "DIM",
    "THERE",
    "barrier",
    "copy",
    "copy_back",
    "description",
    "gl",
    "hopper",
    "jit",
    "mbarrier",
    "on_hopper",
    "readable",
    "start_scores",
    "warpgroup_mma",
    "warpgroup_mma_wait",
]

try:
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia import hopper
    from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    jit = gluon.jit
    # As Triton 3.6 calls them, or later releases.
    barrier = gl.thread_barrier if hasattr(gl, "thread_barrier") else gl.barrier
    LATER = hasattr(hopper.tma, "async_load")
    copy = hopper.tma.async_load if LATER else hopper.tma.async_copy_global_to_shared
    copy_back = hopper.tma.async_store if LATER else hopper.tma.async_copy_shared_to_global
    THERE = True
except ImportError:
    gl = hopper = mbarrier = warpgroup_mma = warpgroup_mma_wait = TensorDescriptor = barrier = copy = copy_back = None
    jit, THERE = triton.jit, False

DIM = 128
"""D of all kernels in Gluon."""


@jit
def start_scores(
    query, key_tiles, filled, step, N: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr, SCORES: tl.constexpr
):  # fmt: skip
    """Wait for a step's tile of keys and start its scores [R, N] on the tensor cores."""
    s = step % STAGES
    mbarrier.wait(filled.index(s), (step // STAGES) & 1)
    keys, zero = key_tiles.index(s).reshape([N, D]).permute((1, 0)), gl.zeros([64, N], gl.float32, SCORES)
    return warpgroup_mma(query, keys, zero, use_acc=False, is_async=True)


def on_hopper(query: Tensor) -> bool:
    """Return whether queries have head_dim 128 in half precision, without gaps in D, on a Hopper GPU."""
    return (
        THERE
        and query.is_cuda
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device)[0] == 9
        and query.shape[-1] == DIM
        and query.stride(-1) == 1
        and query.dtype in HALF
    )


def readable(x: Tensor) -> bool:
    """Return whether TMA reads a tensor of half precision, [B, H, T, D], in place: multiples of 16 bytes apart."""
    strides = x.stride()
    return strides[3] == 1 and x.data_ptr() % 16 == 0 and all(s > 0 and s % 8 == 0 for s in strides[:3])


def description(x: Tensor, block: list[int]) -> "TensorDescriptor":
    """Describe a tensor to TMA, which reads or writes it by blocks."""
    layout = gl.NVMMASharedLayout.get_default_for(block, gl.float16)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), block, layout)
