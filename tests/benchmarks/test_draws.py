"""Random draws: each text belongs to one split, and no place in the context is preferred."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.benchmarks.registry import find
from headscope.benchmarks.ruler.needles import draw_distinct, maker

KINDS = ("words", "numbers", "uuids")
# Upper 0.1 % point of chi-square with 9 degrees of freedom.
CHI_SQUARE_9 = 27.88


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.sampled_from(KINDS))
def test_no_seed_draws_a_text_of_the_other_split(seed, other_seed, kind):
    here = draw_distinct(40, "evaluation", maker(kind, Random(seed)))
    there = draw_distinct(40, "calibration", maker(kind, Random(other_seed)))
    assert len(set(here)) == len(set(there)) == 40
    assert set(here).isdisjoint(there)


@pytest.mark.parametrize(
    ("name", "size", "end"),
    [("niah_single_1", 300, 300), ("niah_single_2_prose", 700, 101), ("niah_multikey_2", 60, 60)],
)
def test_places_of_needles_are_uniform(name, size, end):
    places = [find("ruler", name).draw(Random(f"places/{i}"), size, "evaluation", "", i).places[0] for i in range(500)]
    counts, _ = np.histogram(places, bins=10, range=(0, end))
    assert ((counts - 50) ** 2 / 50).sum() < CHI_SQUARE_9


def test_every_key_is_asked_for_as_often():
    draws = [find("ruler", "niah_multikey_1").draw(Random(f"keys/{i}"), 700, "evaluation", "", i) for i in range(400)]
    order = [[key for key, _ in draw.needles].index(draw.queries[0][0]) for draw in draws]
    counts = np.bincount(order, minlength=4)
    assert ((counts - 100) ** 2 / 100).sum() < 16.27  # 0.1 % point, 3 degrees of freedom
