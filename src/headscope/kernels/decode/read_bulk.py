"""Second and third stage of adaptive decoding: a work queue over the bulk of the groups that read it, and the merge.

The tiles of all reading groups are one line, cut into as many pieces as there are programs (stream-K), as even as whole
tiles allow, so that one long group alone keeps the whole GPU busy. A piece that crosses a group's end leaves one part
for each group: part (program + rank of the group among those that read) is nobody else's.

Shapes: B sequences, H query heads, K KV heads, G = H // K, D head_dim; GROUPS >= B K, a power of two.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from headscope.kernels.common.softmax import attended
from headscope.kernels.decode.decide import addresses


@triton.jit
def _whole(lengths, groups, kv_heads, sink, recent, N: tl.constexpr, GROUPS: tl.constexpr):
    """Tiles that each group has on the line if it reads its bulk, [GROUPS]."""
    i = tl.arange(0, GROUPS)
    length = tl.load(lengths + i // kv_heads, mask=i < groups, other=0)
    return tl.cdiv(tl.maximum(length - sink - recent, 0), N)


@triton.jit
def _before(here, reads, tiles):
    """Of the groups that are here, [GROUPS]: how many of them read, and their tiles."""
    return tl.sum(tl.where(here, reads, 0), 0), tl.sum(tl.where(here, tiles, 0), 0)


@triton.jit
def _start(program, every, programs):
    """First tile of a program's piece of the line; the first pieces have one more than the others."""
    return program * (every // programs) + tl.minimum(program, every % programs)


@triton.jit
def _program(tile, every, programs):
    """Whose piece a tile is in."""
    size, larger = every // programs, every % programs
    behind = tile - larger * (size + 1)
    return tl.where(behind < 0, tile // (size + 1), larger + behind // tl.maximum(size, 1))


@triton.jit(do_not_specialize=["groups", "sink", "recent"])
def read_bulk(
    query, keys, values, lengths, pages, reading, parts, part_masses,
    stride_b, stride_h, stride_t, bits, groups, sink, recent, kv_heads, table,
    G: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, PAGE: tl.constexpr,
    GROUPS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Attend to this program's piece of the line: sums, not yet divided, [parts, G, D], their maxima and totals."""
    i, g, d, n = tl.arange(0, GROUPS), tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, N)
    valid, wide = g < G, (d < D)[None, :]
    whole = _whole(lengths, groups, kv_heads, sink, recent, N, GROUPS)
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    reads = tl.load(reading + i, mask=i < groups, other=0)
    tiles = reads * whole
    ends, every = tl.cumsum(tiles, 0), tl.sum(tiles, 0)
    tile = _start(tl.program_id(0), every, tl.num_programs(0))
    stop = _start(tl.program_id(0) + 1, every, tl.num_programs(0))
    while tile < stop:
        # Three sums that do not wait for each other.
        group = tl.sum((ends <= tile).to(tl.int32), 0)
        rank, begin = _before(ends <= tile, reads, tiles)
        b, k = (group // kv_heads).to(tl.int64), (group % kv_heads).to(tl.int64)
        q = tl.load(query + (group * G + tl.minimum(g, G - 1))[:, None] * D + d[None, :], mask=wide, other=0.0)
        behind = tl.load(lengths + b) - recent
        end = begin + tl.cdiv(behind - sink, N)
        last = tl.minimum(sink + (tl.minimum(stop, end) - begin) * N, behind)
        top, total = tl.full([ROWS], float("-inf"), tl.float32), tl.zeros([ROWS], tl.float32)
        output = tl.zeros([ROWS, WIDTH], tl.float32)
        for first in range(sink + (tile - begin) * N, last, N):
            j = first + n
            at = (
                addresses(pages + b * table, b, k, j, j < last, stride_b, stride_h, stride_t, PAGE)[:, None]
                + d[None, :]
            )
            read, there = (j < last)[:, None] & wide, (j < last)[None, :]
            top, total, output = attended(q, keys + at, values + at, read, there, bits, top, total, output)
        part = (tl.program_id(0) + rank).to(tl.int64) * G + g
        tl.store(parts + part[:, None] * D + d[None, :], output, mask=valid[:, None] & wide)
        tl.store(part_masses + part * 2, top, mask=valid)
        tl.store(part_masses + part * 2 + 1, total, mask=valid)
        tile = tl.minimum(stop, end)


@triton.jit(do_not_specialize=["groups", "programs", "sink", "recent"])
def merge(
    lengths, reading, long, plain, plain_mass, parts, part_masses, output,
    groups, programs, sink, recent, kv_heads,
    G: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr, GROUPS: tl.constexpr, PARTS: tl.constexpr,
    SLICES: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Give a long head its plain window and the parts of its bulk, by their masses; a local one keeps what it has.

    A program is one of the SLICES along D of a row and reads PARTS at a time. All programs of `read_bulk` have waited
    for `decide` before this launch begins: what that wrote may be read while they run, past the processor's own cache.
    """
    row = tl.program_id(0) // SLICES
    if tl.load(long + row, cache_modifier=".cg") == 0:
        if DEPENDENT:
            gdc_wait()
    else:
        group, g, p, i = row // G, row % G, tl.arange(0, PARTS), tl.arange(0, GROUPS)
        d = tl.program_id(0) % SLICES * (WIDTH // SLICES) + tl.arange(0, WIDTH // SLICES)
        reads = tl.load(reading + i, mask=i < groups, other=0, cache_modifier=".cg")
        top, total = tl.load(plain_mass + row, cache_modifier=".cg"), 1.0
        sums = tl.load(plain + row.to(tl.int64) * D + d, mask=d < D, other=0.0, cache_modifier=".cg")
        tiles = reads * _whole(lengths, groups, kv_heads, sink, recent, N, GROUPS)
        every = tl.sum(tiles, 0)
        rank, begin = _before(i < group, reads, tiles)
        end = begin + tl.cdiv(tl.load(lengths + group // kv_heads) - sink - recent, N)
        start, final = _program(begin, every, programs) + rank, _program(end - 1, every, programs) + rank + 1
        if DEPENDENT and final > start:  # always: but so the compiler leaves none of these sums for after the wait
            gdc_wait()
        for first in tl.range(start, final, PARTS, num_stages=1):
            part = (first + p).to(tl.int64) * G + g
            there = first + p < final
            tops = tl.load(part_masses + part * 2, mask=there, other=float("-inf"))
            totals = tl.load(part_masses + part * 2 + 1, mask=there, other=0.0)
            read = tl.load(parts + part[:, None] * D + d[None, :], mask=there[:, None] & (d < D)[None, :], other=0.0)
            # The plain window has a key, so that the maximum is finite.
            new = tl.maximum(top, tl.max(tops, 0))
            kept, weights = tl.math.exp2(top - new), tl.math.exp2(tops - new)
            total = total * kept + tl.sum(totals * weights, 0)
            sums = sums * kept + tl.sum(read * weights[:, None], 0)
            top = new
        tl.store(output + row.to(tl.int64) * D + d, (sums / total).to(output.dtype.element_ty), mask=d < D)
