"""Frequent words extraction: name the three most frequent coded words of a text whose counts follow a zeta law."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi
from random import Random
from typing import Self

from headscope.benchmarks.ruler.needles import LOWER, draw_distinct, letters
from headscope.benchmarks.task import Rendering, Split, Task

INSTRUCTION = (
    "Read the following coded text and track the frequency of each coded word. "
    "Find the three most frequently appeared coded words. "
)
QUESTION = (
    "Question: Do not provide any explanation. Please ignore the dots '....'. "
    "What are the three most frequently appeared words in the above coded text?"
)
ANSWER_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"
DOTS = "..."
ANSWERS = 3
ZETA_2 = pi**2 / 6


@dataclass(frozen=True)
class FrequencyChoices:
    """The draws of one sample.

    Attributes:
        words: by rank; the first, the most frequent, is the dots.
        order: the rank, from 0, of each word of the text.
    """

    words: list[str]
    order: list[int]


@dataclass(frozen=True)
class FrequentWords(Task[FrequencyChoices, None]):
    """Coded words of six letters; a text's size fixes how often each rank occurs, the draws which words they are.

    Attributes:
        vocabulary: words there are at most, the dots included; RULER: one for each 50 tokens.
    """

    vocabulary: int = 80
    metric: str = "string_match_all"
    max_new_tokens: int = 50

    @property
    def minimum_size(self) -> int:
        """From 53 on, the fourth rank (the third answer) is always more frequent than the fifth."""
        return 53

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task with the vocabulary of its length; dots and answers are always there."""
        return replace(self, vocabulary=max(budget // 50, 1 + ANSWERS))

    def counts(self, size: int) -> list[int]:
        """Return how often each rank occurs: floor(size / (rank^2 zeta(2))), as far as it is not 0."""
        by_rank = (int(size * float(rank) ** -2 / ZETA_2) for rank in range(1, self.vocabulary + 1))
        return [count for count in by_rank if count]

    def draw(self, rng: Random, size: int, split: Split, data: None, index: int) -> FrequencyChoices:
        """Draw the words, then their order."""
        counts = self.counts(size)
        words = draw_distinct(len(counts) - 1, split, letters(rng, LOWER, 6))
        order = [rank for rank, count in enumerate(counts) for _ in range(count)]
        rng.shuffle(order)
        return FrequencyChoices([DOTS, *words], order)

    def render(self, choices: FrequencyChoices, data: None) -> Rendering:
        """Write instruction, coded text, question and answer prefix."""
        text = " ".join(choices.words[rank] for rank in choices.order)
        return Rendering(INSTRUCTION + text + "\n", QUESTION, ANSWER_PREFIX, choices.words[1 : 1 + ANSWERS])


TASKS = {"fwe": FrequentWords()}
