"""A kernel that combines the margins of one group alone."""

import torch
import triton
import triton.language as tl

from headscope.kernels.decode.decide import group_margin


@triton.jit
def _combine(margin, out, G: tl.constexpr, LOST: tl.constexpr):
    g = tl.arange(0, 16)
    # Rows behind the last head repeat it, as in `decide`.
    tl.store(out, group_margin(tl.load(margin + tl.minimum(g, G - 1)), g < G, LOST))


def combined(margins: list[float], lost: bool, device: str) -> float:
    out = torch.empty(1, device=device)
    _combine[(1,)](torch.tensor(margins, device=device), out, len(margins), lost)
    return float(out)
