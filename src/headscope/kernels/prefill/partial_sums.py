"""Partial sums of row tiles that a cut of the work plan goes through: where programs leave them, and their merge.

Each program's share of a line, number i = line x P + program, has two places: 2 i for the row tile that it begins in,
2 i + 1 for the one that it ends in.

Shapes: groups = B sequences x K KV heads, T tokens, G query heads of a KV head, D head_dim; M rows of a tile; P
programs, L lines at most. Maxima are in bits.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import padded
from headscope.kernels.prefill.windows import rows
from headscope.kernels.prefill.work_plan import WorkPlan

SLICE = 16
"""Rows that are merged at a time."""


class PartialSums(NamedTuple):
    """Memory of all partial sums, float32.

    Attributes:
        outputs: not yet divided, [2 L P, M, D].
        masses: maxima and totals, [2 L P, 2, M].
    """

    outputs: Tensor
    masses: Tensor

    @classmethod
    def of(cls, plan: WorkPlan, m: int, dim: int) -> "PartialSums":
        """Allocate those of a plan."""
        number = 2 * len(plan.cuts) * plan.programs
        outputs, masses = (plan.cuts.new_empty(number, *x, dtype=torch.float32) for x in ((m, dim), (2, m)))
        return cls(outputs, masses)


def merge(plan: WorkPlan, pairs: Tensor, counts: Tensor, partial: PartialSums, output: Tensor) -> None:
    """Write to output [B, H, T, D] the row tiles that were cut, of packed pairs [groups, T G] and counts [groups]."""
    (batch, heads, _, dim), (groups, size), m = output.shape, pairs.shape, partial.outputs.shape[1]
    _merge[(len(plan.cuts) * (plan.programs - 1), m // SLICE)](
        pairs, counts, *plan, *partial, output, *output.stride()[:3],
        size, groups, groups // batch, plan.programs,
        heads * batch // groups, dim, padded(dim), m, SLICE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["size", "groups", "kv_heads", "programs"])
def _merge(
    pairs, counts, order, begins, cuts, firsts, lines, partial_outputs, partial_masses, output,
    out_b, out_h, out_t, size, groups, kv_heads, programs,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write a slice of the row tile whose first cut in a line is this program's, if it has one."""
    line, program = tl.program_id(0) // (programs - 1), tl.program_id(0) % (programs - 1) + 1
    cuts += line * (programs + 1)
    firsts += line * (programs + 1)
    exists = line < tl.load(lines)
    cut, place = tl.load(cuts + program, mask=exists, other=0), tl.load(firsts + program, mask=exists, other=0)
    begin = tl.load(begins + place, mask=exists, other=0)
    if (begin < cut) & (tl.load(cuts + program - 1, mask=exists, other=0) <= begin):
        end, number = tl.load(begins + place + 1), tl.load(order + place)
        group, tile = number % groups, number // groups
        r, d = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
        top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
        sums, wide = tl.zeros([ROWS, WIDTH], tl.float32), (d < D)[None, :]
        i = 2 * (line * programs + program) - 1
        while i >= 0:
            tops = tl.load(partial_masses + i * 2 * M + r)
            # The first sum has the first key, so that the maximum is finite.
            new = tl.maximum(top, tops)
            old, weight = tl.math.exp2(top - new), tl.math.exp2(tops - new)
            total = total * old + tl.load(partial_masses + (i * 2 + 1) * M + r) * weight
            at = partial_outputs + (i * M + r)[:, None] * D + d[None, :]
            sums = sums * old[:, None] + tl.load(at, mask=wide, other=0.0) * weight[:, None]
            top = new
            i = tl.where(tl.load(cuts + program) < end, 2 * (line * programs + program), -1)
            program += 1
        row, count = tile * M + r, tl.load(counts + group)
        pair = tl.load(pairs + group.to(tl.int64) * size + tl.minimum(row, count - 1))
        out = output + rows(pair, group, kv_heads, out_b, out_h, out_t, G)[:, None] + d[None, :]
        tl.store(out, (sums / total[:, None]).to(output.dtype.element_ty), mask=(row < count)[:, None] & wide)
