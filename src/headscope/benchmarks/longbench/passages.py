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
EXAMPLE = 'The sentence "{}" is from Paragraph {}'
# A sample whose fewest paragraphs are too long is passed over, but not many of them one after the other.
GOOD_FILL, TRIES = 0.93, 100


def paragraphs(sources: Sequence[str]) -> list[str]:
    """Return paragraphs of WORDS words, each once: neighbours in the documentation, joined where they are short."""
    merged: list[str] = []
    for text in (text for source in sources for text in documentation(source)):
        joined: list[str] = []
        for paragraph in [*text, ""]:
            if _is_prose(paragraph):
                joined.append(paragraph)
            words = sum(len(part.split()) for part in joined)
            if words >= WORDS.start or not _is_prose(paragraph):
                merged += [" ".join(joined)] * (words in WORDS)
                joined = []
    return [paragraph for paragraph in dict.fromkeys(merged) if _sentences(paragraph)]


def draws(
    sources: Sequence[str], seed: str, tokens: Callable[[str, str], int], limit: int
) -> Iterator[tuple[str, str, str]]:
    """Yield context, input and answer: numbered paragraphs with worked examples, a sentence, and its paragraph's name.

    Every place is as likely. Where all paragraphs fit, all are shown.

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
    size, misses = SMALLEST, 0
    for index in count():
        measured = partial(_measured, pool, f"{seed}/{index}", tokens, limit)
        size = fitting_size(measured, SMALLEST, GOOD_FILL * limit, limit, size)
        if measured(size) <= limit:
            misses = 0
            yield _sample(pool, f"{seed}/{index}", size)
        elif (misses := misses + 1) == TRIES:
            raise LengthError(
                f"{limit} tokens are too few for {SMALLEST} paragraphs, {EXAMPLES} of them for worked examples; "
                "choose a greater length"
            )


def _measured(pool: Sequence[str], seed: str, tokens: Callable[[str, str], int], limit: int, size: int) -> int:
    """Return the tokens of a sample; more paragraphs than there are never fit."""
    if size > len(pool):
        return limit + 1
    context, query, _ = _sample(pool, seed, size)
    return tokens(context, query)


def _sample(pool: Sequence[str], seed: str, size: int) -> tuple[str, str, str]:
    """Return context, query and answer."""
    rng = Random(seed)
    place, choice = rng.random(), rng.random()
    shown = rng.sample(pool, len(pool))[:size]
    at = int(place * size)
    examples = rng.sample([number for number in range(size) if number != at], EXAMPLES)
    lines = [f"Paragraph {number}: {paragraph}" for number, paragraph in enumerate(shown, start=1)]
    lines += [EXAMPLE.format(rng.choice(_sentences(shown[number])), number + 1) for number in examples]
    queries = _sentences(shown[at])
    return "\n\n".join(lines), queries[int(choice * len(queries))], f"Paragraph {at + 1}"


def _sentences(paragraph: str) -> list[str]:
    return [sentence for sentence in sentences(paragraph) if len(sentence.split()) >= LEAST_SENTENCE]


def _is_prose(paragraph: str) -> bool:
    """Tell sentences from signatures, examples and tables."""
    marks = (">>>", "==", "--", "|", "::")
    return (
        len(paragraph.split()) >= LEAST_WORDS
        and re.match("[A-Z]", paragraph) is not None
        and paragraph.endswith(".")
        and not any(mark in paragraph for mark in marks)
    )
