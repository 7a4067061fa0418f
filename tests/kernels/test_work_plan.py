"""How the packed attention's work is cut: plans by the kernel, followed share by share."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packed_pairs import drawn, visits

M, N = 16, 16
SHARES = st.lists(st.sampled_from([0.0, 0.02, 0.3, 1.0]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SHARES, st.integers(1, 3), st.integers(1, 300), st.sampled_from([1, 3, 4]), st.integers(2, 9), st.integers(1, 5),
    st.integers(1, 9), st.integers(0, 9),
)  # fmt: skip
def test_every_step_of_every_row_tile_is_taken_once_in_even_shares_of_each_line(
    device, shares, sequences, tokens, group, programs, least, worth, seed
) -> None:
    from headscope.kernels.prefill import work_plan

    kv_heads = len(shares)
    shares = [share for s in range(sequences) for share in shares[s:] + shares[:s]]
    pairs, counts = drawn(device, shares, tokens, group, seed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LEAST": least * N, "WORTH": worth * N, "LINES": 2, "BLOCK": 16}.items():
            patch.setattr(work_plan, name, value)
        plan = work_plan.WorkPlan.of(pairs, counts, kv_heads, group, M, N, programs)
    expected = {}
    for g, count in enumerate(counts.tolist()):
        for tile in range(-(-count // M)):
            last = int(pairs[g, min(count, tile * M + M) - 1]) // group
            expected |= dict.fromkeys(((g, tile, step) for step in range(last // N + 1)), 1)
    visited, sizes, sequences_of = {}, {}, {}
    for program in range(programs):
        for line, place, since, until, _ in visits(plan, program):
            tile, g = divmod(int(plan.order[place]), len(shares))
            for step in range(since, until):
                visited[g, tile, step] = visited.get((g, tile, step), 0) + 1
            sizes.setdefault(line, [0] * programs)[program] += until - since
            sequences_of.setdefault(line, set()).add(g // kv_heads)
    assert visited == expected
    assert all(max(line) <= max(-(-sum(line) // programs), least) for line in sizes.values())
    assert all(max(sequences_of[a]) < min(sequences_of[b]) for a, b in pairwise(sorted(sequences_of)))
    assert int(plan.lines) <= min(2, sequences)


def test_programs_keep_whole_row_tiles_where_there_are_many_one_sequence_after_the_other(device) -> None:
    from headscope.kernels.prefill.work_plan import WorkPlan

    pairs, counts = drawn(device, [1.0] * 8, 256, 4, 0)
    plan = WorkPlan.of(pairs, counts, 4, 4, M, N, 32)
    assert counts.tolist() == [1024] * 8
    for program in range(32):
        tiles = [(place, until - since == steps) for _, place, since, until, steps in visits(plan, program)]
        assert all(whole for _, whole in tiles)
        assert [int(plan.order[place]) % 8 // 4 for place, _ in tiles] == [0] * 8 + [1] * 8
