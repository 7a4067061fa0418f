"""Margins of a KV group: the heads' margins combined, by the kernel and by its reference."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.kernels.decode import reference

INF, NAN = math.inf, math.nan
MARGINS = st.lists(
    st.one_of(st.floats(-60, 60, width=32), st.sampled_from([0.0, 1.5, INF, -INF, NAN])), min_size=1, max_size=8
)


def sigmoid(x: float) -> float:
    return 0.0 if x == -INF else 1 / (1 + math.exp(-x))


@pytest.fixture(params=["kernel", "reference"])
def combined(request, device):
    """A function that combines a list of margins."""
    if request.param == "reference":
        return lambda margins, lost: float(reference.group_margin(torch.tensor([margins]).double(), lost))
    from group_margins import combined

    return lambda margins, lost: combined(margins, lost, device)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MARGINS, st.booleans())
def test_a_group_margin_is_that_of_its_heads_losses_or_shares_together(combined, margins, lost) -> None:
    margin = combined(margins, lost)
    if any(map(math.isnan, margins)):
        assert math.isnan(margin)
    elif lost:
        square = sum(math.exp(-2 * m) if m > -INF else INF for m in margins)
        assert margin == pytest.approx(INF if square == 0 else -math.log(square) / 2, rel=1e-5, abs=1e-5)
    else:
        kept, missed = (sum(sigmoid(sign * m) for m in margins) for sign in (1, -1))
        expected = INF if missed == 0 else -INF if kept == 0 else math.log(kept) - math.log(missed)
        assert margin == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_heads_that_agree_have_their_share_or_their_loss_as_often_as_there_are_heads(combined, lost, heads) -> None:
    expected = 1.5 - math.log(heads) / 2 if lost else 1.5
    assert combined([1.5] * heads, lost) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("margins", "lost", "expected"),
    [
        ([INF, INF], True, INF), ([INF, 2.0], True, 2.0), ([INF, -INF, 1.0], True, -INF), ([-INF], True, -INF),
        ([INF, INF], False, INF), ([-INF, -INF], False, -INF), ([INF, -INF], False, 0.0),
        ([INF, INF, 0.0], False, math.log(5)), ([NAN, -INF], True, NAN), ([NAN, INF], False, NAN), ([NAN], True, NAN),
    ],
)  # fmt: skip
def test_infinite_margins_are_certain_and_nan_is_no_margin(combined, margins, lost, expected) -> None:
    assert combined(margins, lost) == pytest.approx(expected, abs=1e-5, nan_ok=True)
