"""Common words: repeats by length, the pool and what comes after it, and an order of its own for every sample."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from benchmark_files import english_words as stand_in
from benchmark_files import ruler_sampler
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizer import small_tokenizer
from word_tokenizer import WordTokenizer

from headscope.benchmarks.registry import find
from headscope.benchmarks.ruler.cwe import ANSWERS, WordList, english_words, pool
from headscope.benchmarks.task import split_of
from headscope.errors import AssetError, LengthError

TASK = find("ruler", "cwe")
SHORT, LONG = TASK.fit(4095, 4000, len), TASK.fit(4096, 4000, len)
SPLITS = st.sampled_from(["evaluation", "calibration"])


def repeats(numbered: WordList) -> list[int]:
    counts = Counter(numbered.order)
    return [counts[place] for place in range(len(numbered.words))]


@given(st.integers(0, 2**32), st.integers(11, 600), SPLITS)
def test_words_occur_as_often_as_their_length_says(seed, size, split):
    for task, (common, other), (shown, shown_common, shown_other) in (
        (SHORT, (6, 1), (20, 3, 1)),
        (LONG, (30, 3), (40, 10, 3)),
    ):
        choices = task.draw(Random(seed), size, split, [], 0)
        assert repeats(choices.numbered) == [common] * ANSWERS + [other] * (size - ANSWERS)
        assert repeats(choices.example) == [shown_common] * ANSWERS + [shown_other] * (shown - ANSWERS)


@given(st.integers(0, 2**32), st.integers(11, 400), SPLITS)
def test_answers_belong_to_the_split_and_all_words_differ(seed, size, split):
    words = LONG.draw(Random(seed), size, split, [], 0).numbered.words
    assert len(set(words)) == size
    assert {split_of(word) for word in words[:ANSWERS]} == {split}


def test_the_answers_are_the_most_frequent_words_of_the_text():
    sampler = ruler_sampler("cwe", 8192, 0, small_tokenizer(), True)
    for sample in sampler.samples("evaluation", 2):
        *_, listed, _ = sample.rendering.text.split("\n")
        counts = Counter(part for part in listed.split(" ") if not part[0].isdigit())
        assert {word for word, count in counts.items() if count >= 30} >= set(sample.rendering.references)


def test_order_of_words_is_fresh_in_every_sample_of_a_size():
    orders = [LONG.draw(Random(f"order/{i}"), 50, "evaluation", [], i).numbered.order for i in range(300)]
    assert len({tuple(order) for order in orders}) == 300
    # Mean place of the first word in a list of 420: 209.5, its standard deviation over 300 samples about 1.2.
    places = [[place for place, word in enumerate(order) if word == 0] for order in orders]
    assert abs(sum(map(sum, places)) / (300 * 30) - 209.5) < 5


def test_the_long_list_is_asked_for_only_where_words_can_run_out():
    assert [TASK.needs(length) for length in (1024, 4096, 65_536)] == [[], [], []]
    assert TASK.needs(131_072) == ["english_words"]


@pytest.mark.parametrize("size", [len(pool()) - 1, len(pool()), len(pool()) + 1, 20_000])
def test_words_beyond_the_pool_come_from_the_long_list(size):
    more = english_words(json.dumps(stand_in()).encode())
    words = LONG.draw(Random(1), size, "evaluation", more, 0).numbered.words
    assert len(set(words)) == len(words) == size
    assert len(set(words) - set(pool())) == max(0, size - len(pool()))


def test_answers_beyond_the_pool_come_from_both_lists():
    more = english_words(json.dumps(stand_in()).encode())
    lists = [LONG.draw(Random(seed), 2 * len(pool()), "evaluation", more, 0).numbered.words for seed in range(12)]
    from_pool = sum(word in set(pool()) for words in lists for word in words[:ANSWERS])
    assert 30 < from_pool < 90  # of 120


def test_too_few_words_for_a_length_are_an_error(tmp_path: Path):
    few = tmp_path / "few"
    few.write_text(json.dumps({"0": "qwertz"}))
    sampler = ruler_sampler("cwe", 131_072, 0, WordTokenizer(), False, {"english_words": few})
    with pytest.raises(LengthError, match="all 8167 different words do not fill"):
        sampler.samples("evaluation", 1)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1", b"[1]", b'{"0": 7}'])
def test_a_file_that_is_no_word_list_is_refused(content):
    with pytest.raises(AssetError, match=r"file english_words .* fetch RULER's english_words\.json"):
        english_words(content)
