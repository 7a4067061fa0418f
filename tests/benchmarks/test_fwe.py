"""Coded words follow the zeta law of their size."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headscope.benchmarks.ruler.fwe import FrequentWords

TASK = FrequentWords(vocabulary=80)


def test_counts_are_those_of_the_official_probe():
    assert TASK.counts(1809)[:5] == [1099, 274, 122, 68, 43]


@given(st.integers(TASK.minimum_size, 60_000))
def test_the_third_answer_is_always_more_frequent_than_what_is_no_answer(size):
    counts = TASK.counts(size)
    assert counts == sorted(counts, reverse=True)
    assert counts[3] > (counts[4] if len(counts) > 4 else 0)


def test_one_size_below_the_minimum_can_tie():
    assert TASK.counts(52)[3] == TASK.counts(52)[4]


@given(st.integers(0, 2**32), st.integers(53, 3000))
def test_text_holds_each_word_as_often_as_its_rank_says(seed, size):
    choices = TASK.draw(Random(seed), size, "evaluation", None, 0)
    rendering = TASK.render(choices, None)
    words = Counter(rendering.context.removesuffix("\n").rpartition("coded words. ")[2].split())
    assert sorted(words.values(), reverse=True) == TASK.counts(size)
    assert [word for word, _ in words.most_common(4)] == ["...", *rendering.references]
