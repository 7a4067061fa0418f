"""Packing: the long (query, head) pairs of each KV head side by side, in order.

Shapes: groups = B sequences x K KV heads; T tokens, G query heads of a KV head, pair = token x G + head; N pairs of a
block. A program is one block of one group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _number(long, sums, pairs, N: tl.constexpr):
    """How many pairs of a block are long."""
    block, group = tl.program_id(0), tl.program_id(1)
    i = block * N + tl.arange(0, N)
    found = tl.load(long + group.to(tl.int64) * pairs + i, mask=i < pairs, other=0).to(tl.int32)
    tl.store(sums + group * tl.num_programs(0) + block, tl.sum(found, 0))


@triton.jit
def _pack(long, sums, found, counts, pairs, N: tl.constexpr):
    """Write the block's long pairs behind those of the group's blocks before it."""
    block, group = tl.program_id(0), tl.program_id(1)
    n = tl.arange(0, N)
    before = tl.zeros([N], tl.int32)
    for first in range(0, block, N):
        there = first + n < block
        before += tl.load(sums + group * tl.num_programs(0) + first + n, mask=there, other=0)
    i, row = block * N + n, group.to(tl.int64) * pairs
    chosen = tl.load(long + row + i, mask=i < pairs, other=0).to(tl.int32)
    start = tl.sum(before, 0)
    tl.store(found + row + start + tl.cumsum(chosen, 0) - 1, i, mask=chosen != 0)
    if block == tl.num_programs(0) - 1:
        tl.store(counts + group, start + tl.sum(chosen, 0))


def packed(long: Tensor) -> tuple[Tensor, Tensor]:
    """The long ones among pairs [groups, T G], in order and side by side, and how many there are, [groups]; int32.

    What lies behind the long ones of a group is no pair's number.
    """
    groups, pairs = long.shape
    blocks = triton.cdiv(pairs, BLOCK)
    found = torch.empty(long.shape, dtype=torch.int32, device=long.device)
    sums = torch.empty(groups, blocks, dtype=torch.int32, device=long.device)
    counts = torch.empty(groups, dtype=torch.int32, device=long.device)
    labels = long.view(torch.int8)
    _number[(blocks, groups)](labels, sums, pairs, BLOCK)
    _pack[(blocks, groups)](labels, sums, found, counts, pairs, BLOCK)
    return found, counts
