import torch
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads.quantised import vectors_bytes
from headscope.heads.reading import Reading, decision_bytes, pair_bytes


def test_a_group_is_read_if_any_of_its_heads_is_long() -> None:
    long = torch.tensor([[[1], [0], [0], [0], [0], [0]]], dtype=torch.bool)
    reading = Reading.of(long, 2)
    assert reading.groups[0, :, 0].tolist() == [True, False] and torch.equal(reading.heads, long)


def test_a_key_and_its_value_count_sixteen_bits_a_number() -> None:
    assert pair_bytes(3, 64) == 3 * 2 * 64 * 2


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.sampled_from([2, 4, 8, 16]), st.integers(0, 99))
def test_a_decision_reads_outliers_in_their_bits_and_the_summary_in_float32(counts, bits, numbers) -> None:
    costs = decision_bytes(torch.tensor(counts), bits, numbers, 32)
    for count, cost in zip(counts, costs.tolist(), strict=True):
        assert cost == (2 * vectors_bytes(count, bits, 32, 2) if count else 0) + 4 * numbers
