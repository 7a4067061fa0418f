"""Numbered paragraphs of the standard library's documentation, in the form of LongBench's `passage_retrieval_en`.

As in its few-shot subsets the context ends with worked examples: sentences with the number of their paragraph.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from random import Random

from headscope.benchmarks.longbench.library import documentation
from headscope.benchmarks.prose import sentences
from headscope.benchmarks.sizes import fitting_size
from headscope.errors import LengthError

WORDS = range(60, 131)
LEAST_WORDS, LEAST_SENTENCE = 6, 5
EXAMPLES = 3
SMALLEST = EXAMPLES + 1
GOOD_FILL = 0.93


def paragraphs(sources: Sequence[str]) -> list[str]:
    """Return paragraphs of WORDS words, each once: neighbours in the documentation, joined where they are short."""
    found: list[str] = []
    for text in (text for source in sources for text in documentation(source)):
        joined: list[str] = []
        for paragraph in [*text, ""]:
            if _is_prose(paragraph):
                joined.append(paragraph)
            words = sum(len(part.split()) for part in joined)
            if words >= WORDS.start or not _is_prose(paragraph):
                found += [" ".join(joined)] * (words in WORDS)
                joined = []
    return [paragraph for paragraph in dict.fromkeys(found) if _sentences(paragraph)]


def draws(
    sources: Sequence[str], seed: str, tokens: Callable[[str, str], int], limit: int
) -> Iterator[tuple[str, str, str]]:
    """Yield numbered paragraphs with worked examples, a sentence of another of them, and that one's name: the answer.

    Every place is as likely. Sample i depends on the seed and i. Where all paragraphs fit, all are taken.

    Args:
        sources: the modules to take paragraphs from.
        seed: of all draws.
        tokens: measures the filled template, given context and input.
        limit: tokens that it may have.

    Raises:
        LengthError: the limit is too short for the examples' paragraphs and one more, or the sources have no more.
    """
    pool = paragraphs(sources)
    if len(pool) < SMALLEST:
        raise LengthError(f"only {len(pool)} paragraphs of documentation, not {SMALLEST}; give all of the library")
    size = SMALLEST
    for index in count():
        measured = partial(_measured, pool, f"{seed}/{index}", tokens)
        all_fit = size == len(pool) or measured(len(pool)) <= limit
        size = len(pool) if all_fit else fitting_size(measured, SMALLEST, GOOD_FILL * limit, limit, size)
        context, query, answer = _sample(pool, f"{seed}/{index}", size)
        if tokens(context, query) > limit:
            raise LengthError(
                f"{limit} tokens are too few for {SMALLEST} paragraphs, of which {EXAMPLES} are worked examples; "
                "choose a greater length"
            )
        yield context, query, answer
