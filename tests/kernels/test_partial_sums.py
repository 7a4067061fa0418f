"""Partial sums of row tiles that a cut goes through, merged, against attention over all keys at once."""

import pytest
import torch
from packed_pairs import drawn, visits

M, N, D = 16, 16, 16


@pytest.mark.parametrize(
    ("shares", "programs", "batch"),
    [([0.05, 1.0], 9, 1), ([0.0, 0.02, 0.0, 0.3], 40, 1), ([0.004], 30, 1), ([0.3, 0.9, 0.0, 1.0], 9, 2)],
)
def test_merged_partial_sums_are_the_attention_of_the_whole(device, shares, programs, batch) -> None:
    from headscope.kernels.prefill import work_plan
    from headscope.kernels.prefill.partial_sums import PartialSums, merge

    group, tokens, kv_heads = 3, 300, len(shares) // batch
    pairs, counts = drawn(device, shares, tokens, group, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work_plan, "LEAST", 1)
        patch.setattr(work_plan, "WORTH", 1)
        plan = work_plan.WorkPlan.of(pairs, counts, kv_heads, group, M, N, programs)
    scores = torch.randn(len(shares), tokens * group, tokens, device=device) * 4
    values = torch.randn(len(shares), tokens, D, device=device)
    partial = PartialSums.of(plan, M, D)
    for x in partial:
        x.fill_(torch.nan)
    output = torch.full((batch, kv_heads * group, tokens, D), torch.nan, device=device)
    expected, sums = output.clone(), 0
    for program in range(programs):
        for line, place, since, until, steps in visits(plan, program):
            tile, g = divmod(int(plan.order[place]), len(shares))
            pair = pairs[g, torch.arange(tile * M, tile * M + M, device=device).clamp(max=counts[g] - 1)].long()
            keys = torch.arange(min(steps * N, tokens), device=device)
            visible = scores[g, pair, : len(keys)].where(keys <= pair[:, None] // group, -1e30)
            if until - since < steps:
                shared = visible[:, since * N : until * N]
                top, i = shared.max(1).values, 2 * (line * programs + program) + (since == 0)
                weights = torch.exp2(shared - top[:, None])
                partial.outputs[i] = weights @ values[g, since * N : until * N][: shared.shape[1]]
                partial.masses[i, 0], partial.masses[i, 1] = top, weights.sum(1)
                whole = torch.softmax(visible * torch.tensor(2.0).log(), 1) @ values[g, : len(keys)]
                expected[g // kv_heads, g % kv_heads * group + pair % group, pair // group] = whole
                sums += 1
    merge(plan, pairs, counts, partial, output)
    assert sums > 2 and int(plan.lines) == batch
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
