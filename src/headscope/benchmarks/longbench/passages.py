"""Numbered paragraphs of the standard library's documentation, in the form of LongBench's `passage_retrieval_en`."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from random import Random

from headscope.benchmarks.longbench.library import doc_paragraphs
from headscope.benchmarks.prose import sentences
from headscope.benchmarks.sizes import fitting_size
from headscope.errors import LengthError

WORDS = range(50, 101)
QUERY_WORDS = range(6, 41)
GOOD_FILL = 0.93


def paragraphs(sources: Sequence[str]) -> list[str]:
    """Return the paragraphs of prose that hold a sentence to ask for, each once."""
    found = (paragraph for source in sources for paragraph in doc_paragraphs(source))
    return [paragraph for paragraph in dict.fromkeys(found) if _is_prose(paragraph) and _queries(paragraph)]


def draws(
    sources: Sequence[str], seed: str, tokens: Callable[[str, str], int], limit: int
) -> Iterator[tuple[str, str, str]]:
    """Yield numbered paragraphs, a sentence out of one of them, and that one's name, which is the answer.

    Every place is as likely. Sample i depends on the seed and i.

    Args:
        sources: the modules to take paragraphs from.
        seed: of all draws.
        tokens: measures the filled template, given context and input.
        limit: tokens that it may have.

    Raises:
        LengthError: the limit is too short for two paragraphs, or longer than all of them.
    """
    pool = paragraphs(sources)
    size = 2
    for index in count():
        measured = partial(_measured, pool, f"{seed}/{index}", tokens)
        size = fitting_size(measured, 2, GOOD_FILL * limit, limit, size)
        context, query, answer = _sample(pool, f"{seed}/{index}", size)
        if tokens(context, query) > limit:
            raise LengthError(f"{limit} tokens are too few for two paragraphs and a question; choose a greater length")
        yield context, query, answer


def _measured(pool: Sequence[str], seed: str, tokens: Callable[[str, str], int], size: int) -> int:
    context, query, _ = _sample(pool, seed, size)
    return tokens(context, query)


def _sample(pool: Sequence[str], seed: str, size: int) -> tuple[str, str, str]:
    """Return context, query and answer; more paragraphs keep the order of the first ones."""
    rng = Random(seed)
    place, choice = rng.random(), rng.random()
    chosen = rng.sample(pool, len(pool))[:size]
    at = int(place * len(chosen))
    queries = _queries(chosen[at])
    numbered = (f"Paragraph {number}: {paragraph}" for number, paragraph in enumerate(chosen, start=1))
    return "\n\n".join(numbered), queries[int(choice * len(queries))], f"Paragraph {at + 1}"


def _queries(paragraph: str) -> list[str]:
    return [sentence for sentence in sentences(paragraph) if len(sentence.split()) in QUERY_WORDS]


def _is_prose(paragraph: str) -> bool:
    """Tell sentences from signatures, examples and tables."""
    marks = (">>>", "==", "--", "|", "::")
    return (
        len(paragraph.split()) in WORDS
        and re.match("[A-Z]", paragraph) is not None
        and paragraph.endswith(".")
        and not any(mark in paragraph for mark in marks)
    )
