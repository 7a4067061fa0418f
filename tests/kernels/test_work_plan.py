"""How the packed attention's work is cut: plans by the kernel, pieces followed one by one, parts merged."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

M, N, D = 16, 16, 16


def drawn(device, shares, tokens, group, seed):
    """Long pairs of each KV head, as many in the mean as its share says, packed."""
    from headscope.kernels.prefill.packing import packed

    generator = torch.Generator().manual_seed(seed)
    long = torch.rand(len(shares), tokens * group, generator=generator) < torch.tensor(shares)[:, None]
    return packed(long.to(device))


def taken(pieces, program):
    """Row tiles that a program attends to: line, place, steps from and to, and how many the row tile has."""
    begins = pieces.begins.tolist()
    for line in range(int(pieces.lines)):
        cuts, firsts = pieces.cuts[line].tolist(), pieces.firsts[line].tolist()
        start, stop, place = cuts[program], cuts[program + 1], firsts[program]
        while max(start, begins[place]) < stop:
            begin, end = begins[place : place + 2]
            yield line, place, max(start - begin, 0), min(stop, end) - begin, end - begin
            place += 1
        assert place == firsts[program + 1] + (begins[firsts[program + 1]] < stop) or start == stop


SHARES = st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SHARES, st.integers(1, 3), st.integers(1, 300), st.sampled_from([1, 3, 4]), st.integers(2, 9), st.integers(1, 5),
    st.integers(1, 9), st.integers(0, 9),
)  # fmt: skip
def test_every_step_of_every_row_tile_is_taken_once_in_even_pieces_of_each_line(
    device, shares, sequences, tokens, group, programs, least, worth, seed
) -> None:
    from headscope.kernels.prefill import work_plan as kernel

    kv_heads = len(shares)
    shares = [share for s in range(sequences) for share in shares[s:] + shares[:s]]
    pairs, counts = drawn(device, shares, tokens, group, seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LEAST": least * N, "WORTH": worth * N, "LINES": 2, "BLOCK": 16}.items():
            patch.setattr(kernel, name, value)
        pieces = kernel.WorkPlan.of(pairs, counts, kv_heads, group, M, N, programs)
    expected = {}
    for g, count in enumerate(counts.tolist()):
        for tile in range(-(-count // M)):
            last = int(pairs[g, min(count, tile * M + M) - 1]) // group
            expected |= dict.fromkeys(((g, tile, step) for step in range(last // N + 1)), 1)
    found, sizes, sequence = {}, {}, {}
    for program in range(programs):
        for line, place, since, until, _ in taken(pieces, program):
            tile, g = divmod(int(pieces.order[place]), len(shares))
            for step in range(since, until):
                found[g, tile, step] = found.get((g, tile, step), 0) + 1
            sizes.setdefault(line, [0] * programs)[program] += until - since
            sequence.setdefault(line, set()).add(g // kv_heads)
    assert found == expected
    assert all(max(of) <= max(-(-sum(of) // programs), least) for of in sizes.values())
    lines = sorted(sequence)
    assert all(max(sequence[a]) < min(sequence[b]) for a, b in pairwise(lines))
    assert int(pieces.lines) <= min(2, sequences)


def test_programs_keep_whole_row_tiles_where_there_are_many_one_sequence_after_the_other(device) -> None:
    from headscope.kernels.prefill.work_plan import WorkPlan

    pairs, counts = drawn(device, [1.0] * 8, 256, 4, 0)
    pieces = WorkPlan.of(pairs, counts, 4, 4, M, N, 32)
    assert counts.tolist() == [1024] * 8
    for program in range(32):
        found = [(place, until - since == steps) for _, place, since, until, steps in taken(pieces, program)]
        assert all(whole for _, whole in found)
        assert [int(pieces.order[place]) % 8 // 4 for place, _ in found] == [0] * 8 + [1] * 8


@pytest.mark.parametrize(
    ("shares", "programs", "batch"),
    [([0.05, 1.0], 9, 1), ([0.0, 0.02, 0.0, 0.3], 40, 1), ([0.004], 30, 1), ([0.3, 0.9, 0.0, 1.0], 9, 2)],
)
def test_merged_parts_are_the_attention_of_the_whole(device, shares, programs, batch) -> None:
    from headscope.kernels.prefill import partial_sums as merging
    from headscope.kernels.prefill import work_plan as kernel

    group, tokens, kv_heads = 3, 300, len(shares) // batch
    pairs, counts = drawn(device, shares, tokens, group, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "LEAST", 1)
        patch.setattr(kernel, "WORTH", 1)
        pieces = kernel.WorkPlan.of(pairs, counts, kv_heads, group, M, N, programs)
    scores = torch.randn(len(shares), tokens * group, tokens, device=device) * 4
    values = torch.randn(len(shares), tokens, D, device=device)
    parts, masses = (x.fill_(torch.nan) for x in merging.room(pieces, M, D))
    output = torch.full((batch, kv_heads * group, tokens, D), torch.nan, device=device)
    expected, merged = output.clone(), 0
    for program in range(programs):
        for line, place, since, until, steps in taken(pieces, program):
            tile, g = divmod(int(pieces.order[place]), len(shares))
            pair = pairs[g, torch.arange(tile * M, tile * M + M, device=device).clamp(max=counts[g] - 1)].long()
            keys = torch.arange(min(steps * N, tokens), device=device)
            seen = scores[g, pair, : len(keys)].where(keys <= pair[:, None] // group, -1e30)
            if until - since < steps:
                some = seen[:, since * N : until * N]
                top, part = some.max(1).values, 2 * (line * programs + program) + (since == 0)
                weights = torch.exp2(some - top[:, None])
                parts[part] = weights @ values[g, since * N : until * N][: some.shape[1]]
                masses[part, 0], masses[part, 1] = top, weights.sum(1)
                whole = torch.softmax(seen * torch.tensor(2.0).log(), 1) @ values[g, : len(keys)]
                expected[g // kv_heads, g % kv_heads * group + pair % group, pair // group] = whole
                merged += 1
    merging.merge(pieces, pairs, counts, parts, masses, output)
    assert merged > 2 and int(pieces.lines) == batch
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
