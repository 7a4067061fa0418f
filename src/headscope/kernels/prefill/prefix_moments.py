"""Gaussian summaries of the bulk along a prompt, one at each start of a chunk: sums of segments, added up in order.

A segment holds the keys that become bulk between one start and the next.

Shapes: B sequences, K KV heads, T tokens, S starts, D head_dim; WIDTH >= D, a power of two; N keys of a tile; M tokens
of a program.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.common.device import padded

TILE = 64
COLUMNS = 64
"""Columns of the products' sums in one program."""
TOKENS = 128
"""Tokens of a program that looks up their summaries, and starts that it compares at a time."""


@dataclass(frozen=True)
class PrefixMoments:
    """Moments of the bulk at each start: of the keys that lie outside the window of the start's token.

    Attributes:
        mean: of the rotated keys, [B, K, S, D], float32.
        covariance: [B, K, S, D, D], of the keys' dtype.
        summary_of_token: index of the start whose moments each token uses, int32 [T].
    """

    mean: Tensor
    covariance: Tensor
    summary_of_token: Tensor

    @classmethod
    def of(cls, keys: Tensor, starts: Tensor, sink: int, recent: int) -> "PrefixMoments":
        """Summarise keys [B, K, T, D] at each start, [S], ascending; tokens before the first start use it too.

        A summary of no key has mean and covariance zero.
        """
        (batch, kv_heads, tokens, dim), starts = keys.shape, starts.contiguous()
        keys = keys if keys.stride(-1) == 1 else keys.contiguous()
        total = keys.new_empty(batch, kv_heads, len(starts), dim, dtype=torch.float32)
        square = keys.new_empty(batch, kv_heads, len(starts), dim, dim, dtype=torch.float32)
        width = padded(dim)
        columns = min(COLUMNS, width)
        _segment_sums[(len(starts), batch * kv_heads, width // columns)](
            keys, starts, total, square, *keys.stride()[:3], sink, recent, kv_heads, dim, width, columns, TILE,
            num_warps=8,
        )  # fmt: skip
        mean, covariance = torch.empty_like(total), torch.empty_like(square, dtype=keys.dtype)
        _moments[(dim, batch * kv_heads)](
            starts, total, square, mean, covariance, len(starts), sink, recent, dim, width, num_warps=1
        )
        summary_of_token = torch.empty(tokens, dtype=torch.int32, device=keys.device)
        _summary_of_token[(triton.cdiv(tokens, TOKENS),)](starts, summary_of_token, len(starts), tokens, TOKENS)
        return cls(mean, covariance, summary_of_token)


@triton.jit(do_not_specialize=["summaries", "tokens"])
def _summary_of_token(starts, summary_of_token, summaries, tokens, M: tl.constexpr):
    """Write the last start that is not behind a token, or the first one."""
    m, position = tl.arange(0, M), tl.program_id(0) * M + tl.arange(0, M)
    passed = tl.zeros([M], tl.int32)
    for first in range(0, summaries, M):
        start = tl.load(starts + first + m, mask=first + m < summaries, other=tokens)
        passed += tl.sum((start[None, :] <= position[:, None]).to(tl.int32), 1)
    tl.store(summary_of_token + position, tl.maximum(passed - 1, 0), mask=position < tokens)


@triton.jit
def _end(starts, summary, sink, recent):
    """First key behind the bulk of a start."""
    return tl.maximum(tl.load(starts + summary) - recent, sink).to(tl.int32)


@triton.jit(do_not_specialize=["sink", "recent"])
def _segment_sums(
    key, starts, total, square, key_b, key_h, key_t, sink, recent, kv_heads,
    D: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Sum the keys of a segment, and COLUMNS of the columns of their products."""
    segment, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    d, n = tl.arange(0, WIDTH), tl.arange(0, N)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    last = _end(starts, segment, sink, recent)
    first = tl.where(segment > 0, _end(starts, tl.maximum(segment - 1, 0), sink, recent), sink)
    base = key + (group // kv_heads) * key_b + (group % kv_heads) * key_h
    sums, products = tl.zeros([COLUMNS], tl.float32), tl.zeros([WIDTH, COLUMNS], tl.float32)
    for s in range(first, last, N):
        at = base + (s + n)[:, None].to(tl.int64) * key_t
        exists = (s + n < last)[:, None]
        keys = tl.load(at + d[None, :], mask=exists & (d < D)[None, :], other=0.0)
        columns = tl.load(at + column[None, :], mask=exists & (column < D)[None, :], other=0.0)
        sums += tl.sum(columns.to(tl.float32), 0)
        products = tl.dot(keys.T, columns, products)
    out = group * tl.num_programs(0) + segment
    tl.store(total + out * D + column, sums, mask=column < D)
    at = square + (out * D + d[:, None]) * D + column[None, :]
    tl.store(at, products, mask=(d < D)[:, None] & (column < D)[None, :])


@triton.jit(do_not_specialize=["summaries", "sink", "recent"])
def _moments(
    starts, total, square, mean, covariance, summaries, sink, recent, D: tl.constexpr, WIDTH: tl.constexpr
):  # fmt: skip
    """Write mean and one row of the covariance at each start, from the sums of the segments before it."""
    row, group, d = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, WIDTH)
    wide = d < D
    sums, products = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)
    for summary in tl.range(summaries, num_stages=4):
        at = group * summaries + summary
        sums += tl.load(total + at * D + d, mask=wide, other=0.0)
        products += tl.load(square + (at * D + row) * D + d, mask=wide, other=0.0)
        count = tl.maximum(_end(starts, summary, sink, recent) - sink, 1).to(tl.float32)
        centre = sums / count
        own = tl.sum(tl.where(d == row, centre, 0.0), 0)
        if row == 0:
            tl.store(mean + at * D + d, centre, mask=wide)
        centred = products / count - own * centre
        tl.store(covariance + (at * D + row) * D + d, centred.to(covariance.dtype.element_ty), mask=wide)
