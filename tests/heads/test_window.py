import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads.window import Window

windows = st.builds(Window, sink=st.integers(0, 20), recent=st.integers(1, 30))


@given(windows, st.integers(0, 60))
def test_every_visible_key_is_local_or_bulk_and_never_both(window: Window, position: int) -> None:
    query, keys = torch.tensor([position]), torch.arange(64)
    local, bulk = window.local(query, keys)[0], window.bulk(query, keys)[0]
    assert not (local & bulk).any()
    assert torch.equal(local | bulk, keys <= position)


@given(windows, st.integers(0, 60))
def test_bulk_size_counts_the_bulk_keys(window: Window, position: int) -> None:
    query = torch.tensor([position])
    assert int(window.bulk_size(query)[0]) == int(window.bulk(query, torch.arange(64)).sum())


def test_recent_counts_the_query_itself_and_not_the_sink() -> None:
    local = Window(sink=2, recent=3).local(torch.tensor([9]), torch.arange(10))[0]
    assert local.nonzero()[:, 0].tolist() == [0, 1, 7, 8, 9]


def test_a_summary_frozen_at_the_boundary_holds_what_its_last_query_calls_bulk() -> None:
    first, last = Window(sink=4, recent=8).summarised(50)
    assert torch.arange(50)[Window(4, 8).bulk(torch.tensor([49]), torch.arange(50))[0]].tolist() == [
        *range(first, last)
    ]


def test_a_context_inside_the_window_leaves_nothing_to_summarise() -> None:
    first, last = Window(sink=16, recent=128).summarised(100)
    assert first == last


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 3), (2, 9), (5, 6), (30, 37)])
def test_columns_are_the_keys_that_any_of_the_windows_holds(first: int, last: int) -> None:
    window = Window(sink=4, recent=6)
    held = window.local(torch.arange(first, last), torch.arange(40)).any(0).nonzero()[:, 0].tolist()
    assert [key for span in window.columns(first, last) for key in span] == held
