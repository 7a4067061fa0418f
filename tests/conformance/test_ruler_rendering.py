"""Official samples, rendered again from the choices read out of them, byte for byte."""

from collections import Counter
from typing import Any

import pytest
from official_samples import official, read_frequencies, read_needles, read_tracking

from headscope.benchmarks.registry import find
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
    ours = task("fwe").fit(4096 - task("fwe").max_new_tokens, len)
    for sample in official("fwe"):
        counts = sorted(Counter(read_frequencies(sample).order).values(), reverse=True)
        sizes = [size for size in range(counts[0], 3 * counts[0]) if ours.counts(size) == counts]
        assert sizes, "no size gives the official counts"
