"""Plan of the packed attention: which row tiles, and which of their keys, each program attends to.

A row tile takes as many steps as there are tiles of keys that its last row sees. The steps of all row tiles form one
line, cut into one even share a program (stream-K); a row tile that a cut goes through leaves one partial sum for each
of its shares, which `headscope.kernels.prefill.partial_sums` merges. Row tiles are in the order in which programs would
take them in turns, sequence after sequence, in each longest first, forth and back: where there are many, programs keep
nearly whole ones and read the same keys at the same time, from the L2 cache. Over many turns they would drift apart: a
batch has as many lines as its work is worth, of some sequences each, and programs end each of them together. The plan
is made on the GPU, from the long pairs, so that a CUDA graph replays it.

Shapes: groups = B sequences x K KV heads, T tokens, G query heads of a KV head, D head_dim; M rows, N keys of a tile;
P programs, L lines at most; BLOCK: slots that are laid at a time; GROUPS >= groups, HEADS >= K and PROGRAMS > P, powers
of two.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import padded

LEAST, WORTH = 512, 16384
"""Fewest keys of a share, where there are so many, and keys a program that are worth one more line."""
LINES = 16
"""Most lines of a plan."""
BLOCK = 1024
"""Slots that are laid at a time."""


class WorkPlan(NamedTuple):
    """Lines of steps and their cuts. A place is an index into all lines, one behind the other.

    Attributes:
        order: row tile at each place, tile x groups + group, int32 [row tiles + L]; behind each line one is empty.
        begins: first step of the row tile at each place, and behind each line the number of its steps, int64
            [row tiles + L].
        cuts: first step of each program in each line, and the number of steps behind the last, int64 [L, P + 1].
        firsts: place of the row tile that a cut lies in, or that begins there, int32 [L, P + 1].
        lines: number of lines, int32 [1]; of the others nothing is written.
    """

    order: Tensor
    begins: Tensor
    cuts: Tensor
    firsts: Tensor
    lines: Tensor

    @property
    def programs(self) -> int:
        """Number of programs, P."""
        return self.cuts.shape[1] - 1

    @classmethod
    def of(cls, pairs: Tensor, counts: Tensor, kv_heads: int, group: int, m: int, n: int, programs: int) -> "WorkPlan":
        """Cut the work on packed pairs [groups, T G], of which counts [groups] are long; group: G."""
        groups, size = pairs.shape
        tiles, least, worth = triton.cdiv(size, m), max(LEAST // n, 1), max(WORTH // n, 1)
        # As `_plan` counts lines where all pairs are long.
        most = tiles * groups * (size // group // n + 1) // 2 // (programs * worth)
        most = max(1, min(most, groups // kv_heads, LINES))

        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=pairs.device)

        places, cuts = tiles * groups + most, (most, programs + 1)
        plan = cls(
            order=empty(places),
            begins=empty(places, dtype=torch.int64),
            cuts=empty(*cuts, dtype=torch.int64),
            firsts=empty(*cuts),
            lines=empty(1),
        )
        _plan[(most,)](
            pairs, counts, *plan, size, groups, kv_heads, programs, least, worth,
            group, m, n, BLOCK, *(padded(x) for x in (groups, kv_heads, programs + 1)),
            tl.int32 if (tiles + 1) ** 2 < 1 << 31 else tl.int64, num_warps=16,
        )  # fmt: skip
        return plan


class Share(NamedTuple):
    """A program's share of a line: first step, step behind the last, first place, number of row tiles."""

    start: tl.tensor
    stop: tl.tensor
    place: tl.tensor
    row_tiles: tl.tensor


class RowTile(NamedTuple):
    """One row tile of a share: its number in its group, the share's key tiles [since, until), and all that it takes."""

    number: tl.tensor
    group: tl.tensor
    since: tl.tensor
    until: tl.tensor
    steps: tl.tensor


@triton.jit
def share_of(plan, line):
    """Return this program's `Share` of a line."""
    at = line * (tl.num_programs(0) + 1) + tl.program_id(0)
    start, stop = tl.load(plan.cuts + at), tl.load(plan.cuts + at + 1)
    place, after = tl.load(plan.firsts + at), tl.load(plan.firsts + at + 1)
    return Share(start, stop, place, after - place + (tl.load(plan.begins + after) < stop).to(tl.int32))


@triton.jit
def row_tile(plan, share, i, groups):
    """Return the i-th `RowTile` of a share: whole ones first, so that programs read the same keys at the same time."""
    place = share.place + (i + 1) % share.row_tiles
    number, begin, end = tl.load(plan.order + place), tl.load(plan.begins + place), tl.load(plan.begins + place + 1)
    since = tl.maximum(share.start - begin, 0).to(tl.int32)
    until = (tl.minimum(share.stop, end) - begin).to(tl.int32)
    return RowTile(number // groups, number % groups, since, until, (end - begin).to(tl.int32))


@triton.jit
def _rank(back, group, tiles, counts, start, kv_heads, M: tl.constexpr, INT: tl.constexpr):
    """Row tiles of the sequence that come before a row tile, which is `back` from the end of its group's `tiles`.

    Those of each group are spread evenly from first to last, so that tiles of a length come together.
    """
    rank = back * 0
    for other in range(start, start + kv_heads):
        others = tl.cdiv(tl.load(counts + other), M)
        # Tiles less far back in their group, and in the groups before this one those as far.
        ahead = (back.to(INT) * others + tiles - (other >= group).to(INT)) // tl.maximum(tiles, 1)
        rank += tl.where(others > 0, ahead, 0).to(tl.int32)
    return rank


@triton.jit
def _place(rank, filled, programs):
    """Place on the line of the row tile of a rank, longest first: those of one program lie side by side."""
    turns, larger = filled // programs, filled % programs
    turn, program = rank // programs, rank % programs
    # Every other turn goes backwards: a program that had the longest then has the shortest.
    program = tl.where((turn % 2 == 1) & (turn < turns), programs - 1 - program, program)
    return program * turns + tl.minimum(program, larger) + turn


@triton.jit
def _lay(
    pairs, counts, order, begins, size, filled, start, stop, groups, kv_heads, programs,
    G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, HEADS: tl.constexpr, INT: tl.constexpr,
):  # fmt: skip
    """Write the line of the groups from start to stop, and in `begins` the steps of each row tile; return their sum."""
    n, h, total, before = tl.arange(0, BLOCK), tl.arange(0, HEADS), tl.zeros([], tl.int64), tl.zeros([], tl.int32)
    for sequence in range(start, stop, kv_heads):
        head_tiles = tl.cdiv(tl.load(counts + sequence + h, mask=h < kv_heads, other=0), M)
        # Slots are the row tiles that the sequence's KV heads would have with as many rows as the largest.
        for first in range(0, tl.max(head_tiles, 0) * kv_heads, BLOCK):
            group, back = sequence + (first + n) % kv_heads, (first + n) // kv_heads
            count = tl.load(counts + group)
            tiles = tl.cdiv(count, M)
            tile, exists = tiles - 1 - back, back < tiles
            rank = before + _rank(back, group, tiles, counts, sequence, kv_heads, M, INT)
            place = _place(rank, filled, programs)
            last = group.to(tl.int64) * size + tl.minimum(count, tile * M + M) - 1
            steps = tl.where(exists, tl.load(pairs + last, mask=exists, other=0) // G // N + 1, 0).to(tl.int64)
            tl.store(order + place, tile * groups + group, mask=exists)
            tl.store(begins + place, steps, mask=exists)
            total += tl.sum(steps, 0)
        before += tl.sum(head_tiles, 0)
    return total


@triton.jit
def _cut(begins, cuts, firsts, place, filled, total, programs, least, BLOCK: tl.constexpr, PROGRAMS: tl.constexpr):
    """Cut a line of `filled` row tiles and `total` steps, the first at a place; turn steps in `begins` into sums."""
    n, p, share = tl.arange(0, BLOCK), tl.arange(0, PROGRAMS), tl.maximum(tl.cdiv(total, programs), least)
    tl.store(cuts + p, tl.minimum(p * share, total), mask=p <= programs)
    tl.store(firsts + p, place + filled, mask=(p <= programs) & (p * share >= total))
    end = tl.zeros([], tl.int64)
    for first in range(0, filled, BLOCK):
        exists = first + n < filled
        steps = tl.load(begins + place + first + n, mask=exists, other=0)
        ends = end + tl.cumsum(steps, 0)
        tl.store(begins + place + first + n, ends - steps, mask=exists)
        cut = tl.cdiv(ends - steps, share)
        for _ in range(tl.max(steps, 0) // share + 1):
            tl.store(firsts + cut, place + first + n, mask=cut * share < ends)
            cut += 1
        end += tl.sum(steps, 0)
    tl.store(begins + place + filled, total)


@triton.jit(do_not_specialize=["size", "groups", "kv_heads", "programs", "least", "worth"])
def _plan(
    pairs, counts, order, begins, cuts, firsts, lines, size, groups, kv_heads, programs, least, worth,
    G: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr, GROUPS: tl.constexpr, HEADS: tl.constexpr,
    PROGRAMS: tl.constexpr, INT: tl.constexpr,
):  # fmt: skip
    """Write and cut this program's line. size: T G."""
    g, line = tl.arange(0, GROUPS), tl.program_id(0)
    tiles = tl.cdiv(tl.load(counts + g, mask=g < groups, other=0), M)
    # As if each row tile saw half of the keys.
    steps = tl.sum(tiles, 0).to(tl.int64) * (size // G // N + 1) // 2
    number = tl.minimum(tl.maximum(steps // (programs * worth), 1), tl.num_programs(0)).to(tl.int32)
    in_line = tl.cdiv(groups // kv_heads, number) * kv_heads  # groups of a line
    number = tl.cdiv(groups, in_line)
    tl.store(lines, number, mask=line == 0)
    if line < number:
        start, stop = line * in_line, tl.minimum(line * in_line + in_line, groups)
        place = tl.sum(tl.where(g < start, tiles, 0), 0) + line
        filled = tl.sum(tl.where((g >= start) & (g < stop), tiles, 0), 0)
        total = _lay(
            pairs, counts, order + place, begins + place, size, filled, start, stop, groups, kv_heads, programs,
            G, M, N, BLOCK, HEADS, INT,
        )  # fmt: skip
        # Other threads wrote the steps that now become sums.
        tl.debug_barrier()
        at = line * (programs + 1)
        _cut(begins, cuts + at, firsts + at, place, filled, total, programs, least, BLOCK, PROGRAMS)
