"""Parts of row tiles that a cut goes through: where programs leave them, and their sum.

Of a program's piece (line P + program) the part of the row tile that it begins in is number 2 piece, and of the one
that it ends in 2 piece + 1.

Shapes: groups = B sequences x K KV heads, T tokens, G query heads of a KV head, D head_dim; M rows of a tile; P
programs, L lines at most. Maxima are in bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import padded
from headscope.kernels.prefill.windows import rows
from headscope.kernels.prefill.work_plan import WorkPlan

SLICE = 16
"""Rows that are merged at a time."""


def room(pieces: WorkPlan, m: int, dim: int) -> tuple[Tensor, Tensor]:
    """Room for all parts: sums, not yet divided, [2 L P, M, D], their maxima and totals, [2 L P, 2, M]; float32."""
    number = 2 * len(pieces.cuts) * pieces.programs
    sums, masses = (torch.empty(number, *x, dtype=torch.float32, device=pieces.cuts.device) for x in ((m, dim), (2, m)))
    return sums, masses


def merge(pieces: WorkPlan, pairs: Tensor, counts: Tensor, parts: Tensor, part_masses: Tensor, output: Tensor) -> None:
    """Write to output [B, H, T, D] the row tiles that were cut, of packed pairs [groups, T G] and counts [groups]."""
    (batch, heads, _, dim), (groups, size), m = output.shape, pairs.shape, parts.shape[1]
    _merge[(len(pieces.cuts) * (pieces.programs - 1), m // SLICE)](
        pairs, counts, *pieces, parts, part_masses, output, *output.stride()[:3],
        size, groups, groups // batch, pieces.programs,
        heads * batch // groups, dim, padded(dim), m, SLICE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["size", "groups", "kv_heads", "programs"])
def _merge(
    pairs, counts, order, begins, cuts, firsts, lines, parts, part_masses, output,
    out_b, out_h, out_t, size, groups, kv_heads, programs,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write some rows of the row tile whose first cut in a line is this program's, if it has one."""
    line, program = tl.program_id(0) // (programs - 1), tl.program_id(0) % (programs - 1) + 1
    cuts += line * (programs + 1)
    firsts += line * (programs + 1)
    there = line < tl.load(lines)
    cut, place = tl.load(cuts + program, mask=there, other=0), tl.load(firsts + program, mask=there, other=0)
    begin = tl.load(begins + place, mask=there, other=0)
    if (begin < cut) & (tl.load(cuts + program - 1, mask=there, other=0) <= begin):
        end, found = tl.load(begins + place + 1), tl.load(order + place)
        group, tile = found % groups, found // groups
        r, d = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
        top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
        sums, wide = tl.zeros([ROWS, WIDTH], tl.float32), (d < D)[None, :]
        part = 2 * (line * programs + program) - 1
        while part >= 0:
            tops = tl.load(part_masses + part * 2 * M + r)
            # The first part has the first key, so that the maximum is finite.
            new = tl.maximum(top, tops)
            kept, weight = tl.math.exp2(top - new), tl.math.exp2(tops - new)
            total = total * kept + tl.load(part_masses + (part * 2 + 1) * M + r) * weight
            at = parts + (part * M + r)[:, None] * D + d[None, :]
            sums = sums * kept[:, None] + tl.load(at, mask=wide, other=0.0) * weight[:, None]
            top = new
            part = tl.where(tl.load(cuts + program) < end, 2 * (line * programs + program), -1)
            program += 1
        i, count = tile * M + r, tl.load(counts + group)
        pair = tl.load(pairs + group.to(tl.int64) * size + tl.minimum(i, count - 1))
        out = output + rows(pair, group, kv_heads, out_b, out_h, out_t, G)[:, None] + d[None, :]
        tl.store(out, (sums / total[:, None]).to(output.dtype.element_ty), mask=(i < count)[:, None] & wide)
