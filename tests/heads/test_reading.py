import torch
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads.quantised import vectors_bytes
from headscope.heads.reading import Reading, beyond_window, decision_bytes, pair_bytes
from headscope.heads.window import Window

WINDOW = 144 * 2 * 64 * 2
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "diagonal", "moments": "prose"}


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


def cost(kind: str, estimator: dict | None, outliers: dict | None) -> float:
    return beyond_window({"kind": kind, "estimator": estimator, "outliers": outliers}, Window(16, 128), 64)


def test_costs_are_bytes_over_the_windows_bytes() -> None:
    assert cost("static", None, None) == 0
    assert cost("qada", {**GAUSSIAN, "covariance": "full"}, None) == (64 + 64 * 65 / 2) * 4 / WINDOW
    assert cost("lost_output", GAUSSIAN, {"count": 72, "bits": 16}) == 0.5 + 3 * 64 * 4 / WINDOW
    clusters = {"kind": "clusters", "name": "c", "clusters": 16, "covariance": "full", "bits": 16}
    assert cost("lost_output", clusters, None) == (16 * (2 * 64 + 2) + 64 * 65 / 2) * 4 / WINDOW
    assert cost("oracle", None, {"count": 10, "bits": 8}) == 2 * (10 * 68 + 128) / WINDOW
