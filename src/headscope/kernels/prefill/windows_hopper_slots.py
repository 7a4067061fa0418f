"""Slots of rows that a program of `headscope.kernels.prefill.windows_hopper` takes, and what its warps share, in Gluon.

A slot is PARTS x W neighbouring tokens of one KV head. Shapes as in `windows_hopper`.
"""

from typing import Any, NamedTuple

import triton.language as tl

from headscope.kernels.common.gluon import gl, jit, mbarrier


class Descriptions(NamedTuple):
    """TMA's descriptions of tensors."""

    query: Any
    output: Any
    key: Any
    value: Any
    sink_key: Any
    sink_value: Any
    covariance: Any


class Barriers(NamedTuple):
    """Barriers of some places in shared memory: filled, and free again."""

    filled: Any
    free: Any


class Memory(NamedTuple):
    """Shared memory: two turns of queries for each warpgroup, one covariance, sinks, a ring of keys and values."""

    queries: Any
    square: Any
    sinks: Any
    ring: Any
    query_barriers: Any
    square_barriers: Any
    sink_barriers: Any
    ring_barriers: Any


class Prompt(NamedTuple):
    """Numbers of the prompts and their window; summary_of_token: [T]."""

    summary_of_token: Any
    tokens: Any
    groups: Any
    kv_heads: Any
    summaries: Any
    sink: Any
    recent: Any


class Decision(NamedTuple):
    """What labels depend on, and the labels themselves."""

    mean: Any
    bits: Any
    threshold: Any
    slope: Any
    offset: Any
    forced: Any
    long: Any


class Slot(NamedTuple):
    """A slot's group, first token, first recent key, tiles of recent keys, first summary that it uses, and last."""

    group: Any
    first: Any
    begin: Any
    tiles: Any
    lowest: Any
    highest: Any


@jit
def slots(prompt, P: tl.constexpr):
    """Return the program's first slot and the one behind its last: neighbours, which mostly use the same summary."""
    number, program = (prompt.tokens + P - 1) // P * prompt.groups, gl.program_id(0)
    return program * number // gl.num_programs(0), (program + 1) * number // gl.num_programs(0)


@jit
def slot_at(i, prompt, P: tl.constexpr, N: tl.constexpr):
    """Return slot i, of P tokens."""
    each = (prompt.tokens + P - 1) // P
    first = i % each * P
    last = gl.minimum(first + P, prompt.tokens) - 1
    begin = gl.maximum(first - prompt.recent + 1, prompt.sink)
    tiles = gl.maximum(last + N - begin, 0) // N
    lowest, highest = gl.load(prompt.summary_of_token + first), gl.load(prompt.summary_of_token + last)
    return Slot(i // each, first, begin, tiles, lowest, highest)


@jit
def barriers(N: tl.constexpr, READERS: tl.constexpr):
    """Make barriers of N places, which READERS warpgroups free."""
    LAYOUT: tl.constexpr = mbarrier.MBarrierLayout()
    filled = gl.allocate_shared_memory(gl.int64, [N, 1], LAYOUT)
    free = gl.allocate_shared_memory(gl.int64, [N, 1], LAYOUT)
    for i in gl.static_range(N):
        mbarrier.init(filled.index(i), count=1)
        mbarrier.init(free.index(i), count=READERS)
    return Barriers(filled, free)
