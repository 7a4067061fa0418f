"""Prompts far beyond any test model: generation is linear, and the data never runs out."""

import pytest
from benchmark_files import ruler_sampler
from word_tokenizer import WordTokenizer

from headscope.benchmarks.sampling import Sample

EACH_KIND = ("niah_single_1", "niah_multikey_2", "niah_multivalue_prose", "vt", "cwe", "fwe")


def generated(name: str, length: int) -> Sample:
    sampler = ruler_sampler(name, length, 0, WordTokenizer(), False)
    [sample] = sampler.samples("evaluation", 1)
    assert 0.9 * length <= sample.length <= length
    assert sample.length == len(sample.prompt.text.split()) + sampler.task.max_new_tokens
    assert all(reference in sample.rendering.context for reference in sample.rendering.references)
    return sample


@pytest.mark.parametrize("name", [*EACH_KIND, "qa_1", "qa_2", "qa_generated"])
def test_131072_tokens_are_filled(name):
    generated(name, 131_072)


@pytest.mark.parametrize("name", ["niah_single_1", "qa_1"])
def test_a_million_tokens_are_filled(name):
    generated(name, 2**20)
