"""Bisection over a context's size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.benchmarks.sizes import fitting_size
from headscope.errors import LengthError

UNIT, FIXED, BUDGET, START = st.integers(1, 300), st.integers(0, 900), st.integers(1, 20_000), st.integers(1, 30_000)


@given(UNIT, FIXED, BUDGET, START, st.integers(1, 60))
def test_finds_the_largest_size_that_fits_from_any_start(unit, fixed, budget, start, minimum):
    size = fitting_size(lambda n: fixed + unit * n, minimum, budget, budget, min(start, 2 * budget))
    assert size == max(minimum, (budget - fixed) // unit)


@given(UNIT, FIXED, BUDGET, START)
def test_stops_early_only_at_a_size_in_the_range_asked_for(unit, fixed, budget, start):
    size = fitting_size(lambda n: fixed + unit * n, 1, 0.9 * budget, budget, min(start, 2 * budget))
    largest = max(1, (budget - fixed) // unit)
    assert size == largest or 0.9 * budget <= fixed + unit * size <= budget


@given(st.integers(200, 5000), st.lists(st.integers(-3, 3), min_size=20, max_size=20))
def test_small_steps_back_never_lead_past_the_budget(budget, noise):
    def tokens(size: int) -> int:
        return 20 + 5 * size + noise[size % 20]

    assert 0.9 * budget < tokens(fitting_size(tokens, 1, 0.95 * budget, budget, 1)) <= budget


def test_text_that_does_not_grow_ends_in_an_error():
    with pytest.raises(LengthError, match="does not grow"):
        fitting_size(lambda size: 10, 1, 1000, 1000, 1)
