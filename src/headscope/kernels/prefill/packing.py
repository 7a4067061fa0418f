"""Packing: the long (query, head) pairs of each KV head side by side, in order.

Shapes: groups = B sequences x K KV heads; T tokens, G query heads of a KV head, pair = token x G + head; N pairs of a
block. A program handles one block of one group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _count_long(long, block_counts, size, N: tl.constexpr):
    """Count the long pairs of a block."""
    block, group = tl.program_id(0), tl.program_id(1)
    i = block * N + tl.arange(0, N)
    labels = tl.load(long + group.to(tl.int64) * size + i, mask=i < size, other=0).to(tl.int32)
    tl.store(block_counts + group * tl.num_programs(0) + block, tl.sum(labels, 0))


@triton.jit
def _pack(long, block_counts, pairs, counts, size, N: tl.constexpr):
    """Write the block's long pairs behind those of the group's earlier blocks."""
    block, group = tl.program_id(0), tl.program_id(1)
    n = tl.arange(0, N)
    before = tl.zeros([N], tl.int32)
    for first in range(0, block, N):
        exists = first + n < block
        before += tl.load(block_counts + group * tl.num_programs(0) + first + n, mask=exists, other=0)
    i, row = block * N + n, group.to(tl.int64) * size
    labels = tl.load(long + row + i, mask=i < size, other=0).to(tl.int32)
    start = tl.sum(before, 0)
    tl.store(pairs + row + start + tl.cumsum(labels, 0) - 1, i, mask=labels != 0)
    if block == tl.num_programs(0) - 1:
        tl.store(counts + group, start + tl.sum(labels, 0))


def pack(long: Tensor) -> tuple[Tensor, Tensor]:
    """Return the long pairs of labels [groups, T G], in order, and their number, [groups]; int32.

    What lies behind the long ones of a group is no pair's number.
    """
    groups, size = long.shape
    blocks, labels = triton.cdiv(size, BLOCK), long.view(torch.int8)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=long.device)

    block_counts, pairs, counts = empty(groups, blocks), empty(groups, size), empty(groups)
    _count_long[(blocks, groups)](labels, block_counts, size, BLOCK)
    _pack[(blocks, groups)](labels, block_counts, pairs, counts, size, BLOCK)
    return pairs, counts
