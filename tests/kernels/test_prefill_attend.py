from dataclasses import replace

import pytest
import torch
from decoding_layers import rounding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.errors import ConfigError
from headscope.kernels.common.layer import DecisionRule
from headscope.kernels.prefill import reference

UNDECIDED = 0.05


def drawn(device, dtype, batch=1, kv_heads=2, group=3, tokens=200, dim=64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    heads = kv_heads * group
    query = (normal(batch, tokens, heads, dim) * 2).to(dtype).transpose(1, 2)  # as a projection leaves it
    key, value = (normal(batch, kv_heads, tokens, dim).to(dtype) for _ in range(2))
    return query, key, value, DecisionRule(normal(batch, heads), 1 + normal(heads) / 4, normal(heads))


def both(query, key, value, rule, starts=(0, 40, 100), sink=5, recent=20):
    """Decide by the kernels; return that and a function that decides by the reference in float64 at a threshold."""
    from headscope.kernels.prefill.attend import attend_prompt
    from headscope.kernels.prefill.prefix_moments import PrefixMoments

    prefix = PrefixMoments.of(key, torch.tensor(starts, device=key.device), sink, recent)
    scale = query.shape[-1] ** -0.5
    decided = attend_prompt(query, key, value, prefix, rule, sink, recent, scale)

    def exact(threshold):
        exact_rule = DecisionRule(*(x.double() for x in (threshold, rule.slope, rule.offset)))
        tensors = (x.double() for x in (query, key, value, prefix.mean, prefix.covariance))
        return reference.attend_prompt(*tensors, prefix.summary_of_token, exact_rule, sink, recent, scale)

    return decided, exact


def assert_exact(query, key, value, rule, **options) -> torch.Tensor:
    decided, exact = both(query, key, value, rule, **options)
    expected = exact(rule.threshold)
    sure = exact(rule.threshold - UNDECIDED).long == exact(rule.threshold + UNDECIDED).long
    same = decided.long == expected.long
    assert same[sure].all() and (~same).float().mean() < 0.05
    torch.testing.assert_close(decided.output.double()[same], expected.output[same], **rounding(query.dtype))
    assert torch.isfinite(decided.output).all()
    return decided.long


@pytest.mark.parametrize("dim", [16, 64, 80])
@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 2), st.integers(1, 2), st.sampled_from([1, 3, 4, 16]), st.integers(1, 260), st.integers(0, 9),
    st.integers(1, 140),
    st.lists(st.integers(0, 250), min_size=1, max_size=4, unique=True), st.integers(0, 99),
)  # fmt: skip
def test_prefill_equals_the_float64_reference(
    device, dtype, dim, batch, kv_heads, group, tokens, sink, recent, starts, seed
) -> None:
    layer = drawn(device, dtype, batch, kv_heads, group, tokens, dim, seed)
    assert_exact(*layer, starts=[s for s in sorted(starts) if s < tokens] or [0], sink=sink, recent=recent)


@pytest.mark.parametrize(
    ("group", "tokens", "sink", "recent"), [(1, 230, 5, 20), (3, 131, 1, 1), (4, 261, 16, 128), (16, 90, 16, 37)]
)
def test_prefill_of_head_dim_128_equals_the_float64_reference(device, dtype, group, tokens, sink, recent) -> None:
    layer = drawn(device, dtype, 2, 1, group, tokens, 128)
    assert_exact(*layer, starts=(0, 40, 57, 58), sink=sink, recent=recent)


@pytest.mark.parametrize("dim", [80, 128])
def test_a_batch_may_be_cut_line_by_line(device, dtype, monkeypatch, dim) -> None:
    from headscope.kernels.prefill import work_plan

    plans, real = [], work_plan.WorkPlan.of
    monkeypatch.setattr(work_plan.WorkPlan, "of", lambda *args: plans.append(real(*args)) or plans[-1])
    monkeypatch.setattr(work_plan, "WORTH", 1)
    monkeypatch.setattr(work_plan, "LEAST", 1)
    tokens = 1500 if device == "cuda" else 270  # enough steps for each of its programs
    assert_exact(*drawn(device, dtype, 3, 2, 3, tokens, dim))
    assert int(plans[0].lines) > 1


def test_another_default_dtype_changes_nothing(device, dtype, monkeypatch) -> None:
    from headscope.kernels.prefill import work_plan

    monkeypatch.setattr(work_plan, "LEAST", 1)
    layer = drawn(device, dtype, tokens=1500 if device == "cuda" else 390)
    before, _ = both(*layer)
    torch.set_default_dtype(dtype)
    try:
        after, _ = both(*layer)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(after.output, before.output) and torch.equal(after.long, before.long)


@pytest.mark.parametrize("dim", [64, 128])
def test_keys_may_be_part_of_a_longer_cache(device, dtype, dim) -> None:
    query, key, value, rule = drawn(device, dtype, 2, 2, 3, 150, dim)
    cache = torch.full((2, 2, 2, 190, dim), torch.nan, device=device, dtype=dtype)
    cache[0, :, :, 7:157], cache[1, :, :, 7:157] = key, value
    assert_exact(query, *cache[:, :, :, 7:157], rule)


@pytest.mark.parametrize("threshold", [-torch.inf, torch.inf])
def test_all_pairs_may_be_local_or_all_long(device, dtype, threshold) -> None:
    query, key, value, rule = drawn(device, dtype)
    rule.threshold.fill_(threshold)
    long = assert_exact(query, key, value, rule)
    assert long[..., 25:].all() and not long[..., :25].any() if threshold > 0 else not long.any()


def test_one_long_head_alone(device, dtype) -> None:
    query, key, value, rule = drawn(device, dtype, batch=2)
    rule.threshold.fill_(-torch.inf)
    rule.threshold[1, 4] = torch.inf
    long = assert_exact(query, key, value, rule)
    assert long[1, 4, 25:].all() and long.sum() == long[1, 4].sum()


def test_labels_may_be_forced_but_for_those_left_as_they_are(device, dtype) -> None:
    from headscope.kernels.prefill.attend import attend_prompt
    from headscope.kernels.prefill.prefix_moments import PrefixMoments

    query, key, value, rule = drawn(device, dtype)
    prefix = PrefixMoments.of(key, torch.tensor([0, 100], device=device), 5, 20)
    free = attend_prompt(query, key, value, prefix, rule, 5, 20, 1 / 8).long
    forced = torch.randint(0, 3, (1, 2, 200, 3), dtype=torch.int8, device=device)
    decided = attend_prompt(query, key, value, prefix, rule, 5, 20, 1 / 8, forced)
    by_head = forced.transpose(2, 3).reshape(1, 6, 200)
    assert torch.equal(decided.long, torch.where(by_head == 2, free, by_head == 1))
    every = DecisionRule(torch.full_like(rule.threshold, torch.inf), rule.slope, rule.offset)
    whole, _ = both(query, key, value, every)
    long = decided.long & whole.long
    assert long.any()
    torch.testing.assert_close(decided.output[long], whole.output[long], **rounding(dtype))


def test_a_query_that_is_nan_is_long_and_harms_no_other(device, dtype) -> None:
    query, key, value, rule = drawn(device, dtype)
    clean, _ = both(query, key, value, rule)
    query[0, 2, 150] = torch.nan
    decided, _ = both(query, key, value, rule)
    assert decided.long[0, 2, 150] and decided.output[0, 2, 150].isnan().all()
    decided.output[0, 2, 150], decided.long[0, 2, 150] = clean.output[0, 2, 150], clean.long[0, 2, 150]
    assert torch.equal(decided.long, clean.long) and torch.isfinite(decided.output).all()


def test_values_may_lie_otherwise_than_keys(device, dtype) -> None:
    query, key, value, rule = drawn(device, dtype)
    other = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(both(query, key, value, rule)[0].output, both(query, key, other, rule)[0].output)


@pytest.mark.parametrize("by_kernels", [False, True])
def test_prompts_are_not_decided_by_group(device, dtype, by_kernels) -> None:
    from headscope.kernels.prefill.attend import attend_prompt
    from headscope.kernels.prefill.prefix_moments import PrefixMoments

    query, key, value, rule = drawn(device, dtype)
    rule = replace(rule, by_group=True)
    prefix = PrefixMoments.of(key, torch.tensor([0], device=device), 5, 20)
    with pytest.raises(ConfigError, match="use unit=head with scope=prompt"):
        if by_kernels:
            attend_prompt(query, key, value, prefix, rule, 5, 20, 1 / 8)
        else:
            reference.attend_prompt(
                query, key, value, prefix.mean, prefix.covariance, prefix.summary_of_token, rule, 5, 20, 1 / 8
            )
