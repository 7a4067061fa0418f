"""Even pieces of the packed attention: which row tiles, and which of their keys, each program attends to.

A row tile takes as many steps as there are tiles of keys that its last row sees. The steps of all row tiles are one
line, cut into as many even pieces as there are programs (stream-K); a row tile that a cut goes through leaves one part
for each of its pieces, which `headscope.kernels.prefill.partial_sums` sums. Row tiles follow each other on the line
as programs would take them in turns, sequence after sequence, in each longest first, forth and back: where there are
many, programs keep nearly whole ones and read the same keys at the same time, from the L2 cache. Over many turns they
would drift apart: a batch has as many lines as its work is worth, of some sequences each, and programs end each of
them together. All of it is found on the GPU, from the long pairs, so that a CUDA graph replays it.

Shapes: groups = B sequences x K KV heads, T tokens, G query heads of a KV head, D head_dim; M rows, N keys of a tile;
P programs, L lines at most; BLOCK >= slots that are looked at together; GROUPS >= groups, HEADS >= K and PROGRAMS > P,
powers of two.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import padded

LEAST, WORTH = 512, 16384
"""Keys of a piece at least, where there are so many, and keys of each program that a line more is worth."""
LINES = 16
"""L at most."""
BLOCK = 1024
"""Slots that are planned at a time."""


class WorkPlan(NamedTuple):
    """Lines of steps and their cuts.

    Attributes:
        order: which row tile, tile x groups + group, comes when on its line, int32 [row tiles + L]: line after line,
            and behind each of them a place that none has.
        begins: the first step of each of them, and behind each line the number of its steps, int64 [row tiles + L].
        cuts: the first step of each program in each line, and the number of steps behind the last, int64 [L, P + 1].
        firsts: the place of the row tile that a cut lies in, or that begins there, int32 [L, P + 1].
        lines: how many there are, int32 [1]; of the others nothing is written.
    """

    order: Tensor
    begins: Tensor
    cuts: Tensor
    firsts: Tensor
    lines: Tensor

    @property
    def programs(self) -> int:
        """P."""
        return self.cuts.shape[1] - 1

    @classmethod
    def of(cls, pairs: Tensor, counts: Tensor, kv_heads: int, group: int, m: int, n: int, programs: int) -> "WorkPlan":
        """Cut the work on packed pairs [groups, T G], of which counts [groups] are long; group: G."""
        groups, size = pairs.shape
        tiles, least, worth = triton.cdiv(size, m), max(LEAST // n, 1), max(WORTH // n, 1)
        # As `_plan` finds it where all pairs are long.
        most = tiles * groups * (size // group // n + 1) // 2 // (programs * worth)
        most = max(1, min(most, groups // kv_heads, LINES))

        def made(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=pairs.device)

        places, cuts = tiles * groups + most, (most, programs + 1)
        found = cls(made(places), made(places, dtype=torch.int64), made(*cuts, dtype=torch.int64), made(*cuts), made(1))
        _plan[(most,)](
            pairs, counts, *found, size, groups, kv_heads, programs, least, worth,
            group, m, n, BLOCK, *(padded(x) for x in (groups, kv_heads, programs + 1)),
            tl.int32 if (tiles + 1) ** 2 < 1 << 31 else tl.int64, num_warps=16,
        )  # fmt: skip
        return found


@triton.jit
def _rank(back, group, tiles, counts, start, kv_heads, M: tl.constexpr, INT: tl.constexpr):
    """How many row tiles of its sequence come before the one `back` from the end of its group, of so many tiles.

    Each group's follow each other evenly from the first to the last, so that tiles of a length come together.
    """
    found = back * 0
    for other in range(start, start + kv_heads):
        others = tl.cdiv(tl.load(counts + other), M)
        # Those less far back in their group, and of the groups before this one those as far, too.
        ahead = (back.to(INT) * others + tiles - (other >= group).to(INT)) // tl.maximum(tiles, 1)
        found += tl.where(others > 0, ahead, 0).to(tl.int32)
    return found


@triton.jit
def _place(rank, filled, programs):
    """Where the row tile of a rank, longest first, is on the line: those of one program are side by side."""
    turns, rest = filled // programs, filled % programs
    turn, program = rank // programs, rank % programs
    # Every other turn goes backwards, so that who had the longest then has the shortest.
    program = tl.where((turn % 2 == 1) & (turn < turns), programs - 1 - program, program)
    return program * turns + tl.minimum(program, rest) + turn


@triton.jit
def _lay(
    pairs, counts, order, begins, size, filled, start, stop, groups, kv_heads, programs,
    G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, INT: tl.constexpr,
):  # fmt: skip
    """Write a line of the groups from start to stop, and in `begins` the steps of each row tile; returns their sum."""
    n, h, every, before = tl.arange(0, BLOCK), tl.arange(0, HEADS), tl.zeros([], tl.int64), tl.zeros([], tl.int32)
    for sequence in range(start, stop, kv_heads):
        held = tl.cdiv(tl.load(counts + sequence + h, mask=h < kv_heads, other=0), M)
        # Slots are the row tiles that the sequence's KV heads would have with as many rows as the largest.
        for first in range(0, tl.max(held, 0) * kv_heads, BLOCK):
            group, back = sequence + (first + n) % kv_heads, (first + n) // kv_heads
            count = tl.load(counts + group)
            tiles = tl.cdiv(count, M)
            tile, there = tiles - 1 - back, back < tiles
            rank = before + _rank(back, group, tiles, counts, sequence, kv_heads, M, INT)
            place = _place(rank, filled, programs)
            last = group.to(tl.int64) * size + tl.minimum(count, tile * M + M) - 1
            steps = tl.where(there, tl.load(pairs + last, mask=there, other=0) // G // N + 1, 0).to(tl.int64)
            tl.store(order + place, tile * groups + group, mask=there)
            tl.store(begins + place, steps, mask=there)
            every += tl.sum(steps, 0)
        before += tl.sum(held, 0)
    return every


@triton.jit
def _cut(begins, cuts, firsts, place, filled, every, programs, least, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr):
    """Cut a line of so many row tiles and steps, the first at a place; makes sums of the steps in `begins`."""
    n, p, piece = tl.arange(0, BLOCK), tl.arange(0, PROGRAMS), tl.maximum(tl.cdiv(every, programs), least)
    tl.store(cuts + p, tl.minimum(p * piece, every), mask=p <= programs)
    tl.store(firsts + p, place + filled, mask=(p <= programs) & (p * piece >= every))
    end = tl.zeros([], tl.int64)
    for first in range(0, filled, BLOCK):
        there = first + n < filled
        steps = tl.load(begins + place + first + n, mask=there, other=0)
        ends = end + tl.cumsum(steps, 0)
        tl.store(begins + place + first + n, ends - steps, mask=there)
        cut = tl.cdiv(ends - steps, piece)
        for _ in range(tl.max(steps, 0) // piece + 1):
            tl.store(firsts + cut, place + first + n, mask=cut * piece < ends)
            cut += 1
        end += tl.sum(steps, 0)
    tl.store(begins + place + filled, every)


@triton.jit(do_not_specialize=["size", "groups", "kv_heads", "programs", "least", "worth"])
def _plan(
    pairs, counts, order, begins, cuts, firsts, lines, size, groups, kv_heads, programs, least, worth,
    G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr, HEADS: tl.constexpr,
    PROGRAMS: tl.constexpr, INT: tl.constexpr,
):  # fmt: skip
    """Lay out this program's line and cut it. size: T G."""
    g, line = tl.arange(0, GROUPS), tl.program_id(0)
    tiles = tl.cdiv(tl.load(counts + g, mask=g < groups, other=0), M)
    # As if every row tile saw half of the keys.
    steps = tl.sum(tiles, 0).to(tl.int64) * (size // G // N + 1) // 2
    number = tl.minimum(tl.maximum(steps // (programs * worth), 1), tl.num_programs(0)).to(tl.int32)
    shared = tl.cdiv(groups // kv_heads, number) * kv_heads
    number = tl.cdiv(groups, shared)
    tl.store(lines, number, mask=line == 0)
    if line < number:
        start, stop = line * shared, tl.minimum(line * shared + shared, groups)
        place = tl.sum(tl.where(g < start, tiles, 0), 0) + line
        filled = tl.sum(tl.where((g >= start) & (g < stop), tiles, 0), 0)
        every = _lay(
            pairs, counts, order + place, begins + place, size, filled, start, stop, groups, kv_heads, programs,
            G, M, N, BLOCK, HEADS, INT,
        )  # fmt: skip
        # Other threads wrote the steps that now become sums.
        tl.debug_barrier()
        at = line * (programs + 1)
        _cut(begins, cuts + at, firsts + at, place, filled, every, programs, least, BLOCK, PROGRAMS)


@triton.jit
def share(pieces, line):
    """Where this program's piece of a line starts and stops, its first row tile, and how many it touches."""
    _, begins, cuts, firsts, _ = pieces
    at = line * (tl.num_programs(0) + 1) + tl.program_id(0)
    start, stop = tl.load(cuts + at), tl.load(cuts + at + 1)
    first, after = tl.load(firsts + at), tl.load(firsts + at + 1)
    return start, stop, first, after - first + (tl.load(begins + after) < stop).to(tl.int32)


@triton.jit
def row_tile(pieces, piece, i, groups):
    """The i-th row tile of a share: its number, group, the piece's key tiles from and to, and all that it takes."""
    order, begins, _, _, _ = pieces
    start, stop, first, number = piece
    # Whole row tiles first, so that programs read the same keys at the same time.
    place = first + (i + 1) % number
    found, begin, end = tl.load(order + place), tl.load(begins + place), tl.load(begins + place + 1)
    since, until = tl.maximum(start - begin, 0).to(tl.int32), (tl.minimum(stop, end) - begin).to(tl.int32)
    return found // groups, found % groups, since, until, (end - begin).to(tl.int32)
