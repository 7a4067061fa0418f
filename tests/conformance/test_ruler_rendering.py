"""Official samples, rendered again from the choices read out of them, byte for byte."""

from collections import Counter
from random import Random
from typing import Any

import pytest
from official_samples import (
    FOLDER,
    official,
    read_common,
    read_documents,
    read_frequencies,
    read_needles,
    read_tracking,
)

from headscope.benchmarks.registry import find
from headscope.benchmarks.ruler.cwe import WordList
from headscope.benchmarks.ruler.fwe import ZETA_2, FrequentWords
from headscope.benchmarks.ruler.official import read
from headscope.benchmarks.task import Rendering

NEEDLE_TASKS = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery"),
)


def task(name: str) -> Any:
    return find("ruler", name)


def assert_equal(rendering: Rendering, sample: dict[str, Any]) -> None:
    assert rendering.text == sample["input"]
    assert rendering.answer_prefix == sample["answer_prefix"]
    assert rendering.references == sample["outputs"]


@pytest.mark.parametrize("name", NEEDLE_TASKS)
def test_needle_samples_are_rendered_byte_for_byte(name):
    ours = task(name)
    for sample in official(name):
        choices, prose = read_needles(sample, ours.haystack)
        assert len(choices.needles) == ours.keys * ours.values
        assert_equal(ours.render(choices, prose), sample)


def test_variable_tracking_samples_are_rendered_byte_for_byte():
    for sample in official("vt"):
        assert_equal(task("vt").render(read_tracking(sample), None), sample)


def test_frequent_words_samples_are_rendered_byte_for_byte():
    for sample in official("fwe"):
        assert_equal(task("fwe").render(read_frequencies(sample), None), sample)


def test_frequent_words_have_the_official_counts():
    for sample in official("fwe"):
        counts = sorted(Counter(read_frequencies(sample).order).values(), reverse=True)
        # A vocabulary of one word for each 50 tokens, unless it is so short that it ends the ranks.
        ours = FrequentWords(vocabulary=max(len(counts), (sample["length"] - 50) // 50))
        sizes = range(int(counts[0] * ZETA_2), int((counts[0] + 1) * ZETA_2) + 2)
        assert any(ours.counts(size) == counts for size in sizes), "no size gives the official counts"


def test_common_words_samples_are_rendered_byte_for_byte():
    for sample in official("cwe"):
        assert_equal(task("cwe").render(read_common(sample), []), sample)


def test_common_words_are_repeated_as_in_the_official_samples():
    for sample in official("cwe"):
        choices = read_common(sample)
        length = 4096 if max(repeats(choices.numbered)) == 30 else 4095
        ours = task("cwe").fit(length, length, len)
        sampled = ours.draw(Random(0), len(choices.numbered.words), "evaluation", [f"w{i}" for i in range(200_000)], 0)
        assert repeats(sampled.numbered) == repeats(choices.numbered)
        assert repeats(sampled.example) == repeats(choices.example)


def repeats(numbered: WordList) -> list[int]:
    """How often each word occurs, the answers first."""
    counts = Counter(numbered.order)
    return [counts[place] for place in range(len(numbered.words))]


@pytest.mark.parametrize("name", ["qa_1", "qa_2"])
def test_question_answering_samples_are_rendered_byte_for_byte(name):
    for sample in official(name):
        choices, documents = read_documents(sample)
        assert_equal(task(name).render(choices, documents), sample)


@pytest.mark.parametrize("name", [*NEEDLE_TASKS, "vt", "cwe", "fwe", "qa_1", "qa_2"])
def test_official_files_are_taken_as_they_are(name):
    samples = official(name)
    renderings = read(FOLDER / f"{name}.jsonl", name, len(samples))
    for (_, ours), theirs in zip(renderings.values(), samples, strict=True):
        assert_equal(ours, theirs)
        assert ours.question == theirs["input"].split("\n")[-1]
