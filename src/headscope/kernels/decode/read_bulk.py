"""Second and third launch of adaptive decoding: read the bulk of groups with a long head, and merge the partial sums.

The key tiles of all long groups form one line, which is cut into one share a program (stream-K), as even as whole tiles
allow: one long group alone keeps the whole GPU busy. A share that crosses a group's end leaves a partial sum for each
group, at index (program + rank of the group among the long ones), which no other program uses.

Shapes: B sequences, H query heads, K KV heads, G = H // K, D head_dim; GROUPS >= B K, a power of two.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from headscope.kernels.common.softmax import attended
from headscope.kernels.decode.decide import addresses


@triton.jit
def _bulk_tiles(lengths, groups, kv_heads, sink, recent, N: tl.constexpr, GROUPS: tl.constexpr):
    """Key tiles in the bulk of each group, [GROUPS]."""
    i = tl.arange(0, GROUPS)
    length = tl.load(lengths + i // kv_heads, mask=i < groups, other=0)
    return tl.cdiv(tl.maximum(length - sink - recent, 0), N)


@triton.jit
def _count(selected, long, tiles):
    """Long groups among the selected ones, [GROUPS], and their tiles."""
    return tl.sum(tl.where(selected, long, 0), 0), tl.sum(tl.where(selected, tiles, 0), 0)


@triton.jit
def _first_tile(program, line, programs):
    """First tile of a program's share of a line of so many tiles; the first shares have one more than the others."""
    return program * (line // programs) + tl.minimum(program, line % programs)


@triton.jit
def _program_of(tile, line, programs):
    """Program whose share has a tile."""
    size, larger = line // programs, line % programs
    behind = tile - larger * (size + 1)
    return tl.where(behind < 0, tile // (size + 1), larger + behind // tl.maximum(size, 1))


@triton.jit(do_not_specialize=["groups", "sink", "recent"])
def read_bulk(
    query, keys, values, lengths, pages, group_long, partial_outputs, partial_masses,
    stride_b, stride_h, stride_t, bits, groups, sink, recent, kv_heads, table,
    G: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, PAGE: tl.constexpr,
    GROUPS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Attend to this program's share of the line: write outputs that are not yet divided, their maxima and totals."""
    i, g, d, n = tl.arange(0, GROUPS), tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, N)
    valid, wide = g < G, (d < D)[None, :]
    bulk_tiles = _bulk_tiles(lengths, groups, kv_heads, sink, recent, N, GROUPS)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    long = tl.load(group_long + i, mask=i < groups, other=0)
    tiles = long * bulk_tiles
    ends, line = tl.cumsum(tiles, 0), tl.sum(tiles, 0)
    tile = _first_tile(tl.program_id(0), line, tl.num_programs(0))
    stop = _first_tile(tl.program_id(0) + 1, line, tl.num_programs(0))
    while tile < stop:
        # Three sums that do not wait for each other.
        group = tl.sum((ends <= tile).to(tl.int32), 0)
        rank, begin = _count(ends <= tile, long, tiles)
        b, k = (group // kv_heads).to(tl.int64), (group % kv_heads).to(tl.int64)
        q = tl.load(query + (group * G + tl.minimum(g, G - 1))[:, None] * D + d[None, :], mask=wide, other=0.0)
        bulk_end = tl.load(lengths + b) - recent
        end = begin + tl.cdiv(bulk_end - sink, N)
        last = tl.minimum(sink + (tl.minimum(stop, end) - begin) * N, bulk_end)
        top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
        output = tl.zeros([ROWS, WIDTH], tl.float32)
        for first in range(sink + (tile - begin) * N, last, N):
            j = first + n
            offsets = addresses(pages + b * table, b, k, j, j < last, stride_b, stride_h, stride_t, PAGE)
            at, read, seen = offsets[:, None] + d[None, :], (j < last)[:, None] & wide, (j < last)[None, :]
            top, total, output = attended(q, keys + at, values + at, read, seen, bits, top, total, output)
        row = (tl.program_id(0) + rank).to(tl.int64) * G + g
        tl.store(partial_outputs + row[:, None] * D + d[None, :], output, mask=valid[:, None] & wide)
        tl.store(partial_masses + row * 2, top, mask=valid)
        tl.store(partial_masses + row * 2 + 1, total, mask=valid)
        tile = tl.minimum(stop, end)


@triton.jit(do_not_specialize=["groups", "programs", "sink", "recent"])
def merge(
    lengths, group_long, long, plain_output, plain_mass, partial_outputs, partial_masses, output,
    groups, programs, sink, recent, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, GROUPS: tl.constexpr, SUMS: tl.constexpr,
    SLICES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Write a long head's output, the plain window and the partial sums of its bulk by their masses.

    A local head keeps its output. A program handles one of SLICES along D of a row and reads SUMS partial sums at a
    time. All programs of `read_bulk` have waited for `decide` before this launch begins: what `decide` wrote may be
    read while they run, past the processor's own cache.
    """
    row = tl.program_id(0) // SLICES
    if tl.load(long + row, cache_modifier=".cg") == 0:
        if DEPENDENT:
            gdc_wait()
    else:
        group, g, p, i = row // G, row % G, tl.arange(0, SUMS), tl.arange(0, GROUPS)
        d = tl.program_id(0) % SLICES * (WIDTH // SLICES) + tl.arange(0, WIDTH // SLICES)
        long_groups = tl.load(group_long + i, mask=i < groups, other=0, cache_modifier=".cg")
        top, total = tl.load(plain_mass + row, cache_modifier=".cg"), 1.0
        sums = tl.load(plain_output + row.to(tl.int64) * D + d, mask=d < D, other=0.0, cache_modifier=".cg")
        tiles = long_groups * _bulk_tiles(lengths, groups, kv_heads, sink, recent, N, GROUPS)
        line = tl.sum(tiles, 0)
        rank, begin = _count(i < group, long_groups, tiles)
        end = begin + tl.cdiv(tl.load(lengths + group // kv_heads) - sink - recent, N)
        start, stop = _program_of(begin, line, programs) + rank, _program_of(end - 1, line, programs) + rank + 1
        if DEPENDENT and stop > start:  # always: but so the compiler leaves none of these sums for after the wait
            gdc_wait()
        for first in tl.range(start, stop, SUMS, num_stages=1):
            at = (first + p).to(tl.int64) * G + g
            exists = first + p < stop
            tops = tl.load(partial_masses + at * 2, mask=exists, other=float("-inf"))
            totals = tl.load(partial_masses + at * 2 + 1, mask=exists, other=0.0)
            read = exists[:, None] & (d < D)[None, :]
            outputs = tl.load(partial_outputs + at[:, None] * D + d[None, :], mask=read, other=0.0)
            # The plain window has a key, so that the maximum is finite.
            new = tl.maximum(top, tl.max(tops, 0))
            old, weights = tl.math.exp2(top - new), tl.math.exp2(tops - new)
            total = total * old + tl.sum(totals * weights, 0)
            sums = sums * old + tl.sum(outputs * weights[:, None], 0)
            top = new
        tl.store(output + row.to(tl.int64) * D + d, (sums / total).to(output.dtype.element_ty), mask=d < D)
