"""Common words extraction: name the ten words of a numbered list that occur most often."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Literal, Self

from headscope.benchmarks.ruler.needles import shuffled, word_list
from headscope.benchmarks.task import Rendering, Split, Task, split_of
from headscope.errors import AssetError, LengthError

INSTRUCTION = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n"
)
QUESTION = "Question: What are the 10 most common words in the above list?"
ANSWER_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
PARTS: tuple[Literal["noun", "adjective", "verb"], ...] = ("noun", "adjective", "verb")
ANSWERS = 10

# From this length on, words are repeated more often.
LONG = 4096

# A number, its full stop and a word are three tokens or more, as every model's tokenizer parts them: so a prompt with
# more words than the pool has cannot be shorter than that.
TOKENS_EACH = 3


@dataclass(frozen=True)
class WordList:
    """One numbered list.

    Attributes:
        words: the common ones first, as the answer gives them.
        order: the word, by its place in `words`, at each number of the list.
    """

    words: list[str]
    order: list[int]


@dataclass(frozen=True)
class CommonChoices:
    """The draws of one sample: the list of the question and the worked example's."""

    numbered: WordList
    example: WordList


@dataclass(frozen=True)
class Repeats:
    """Occurrences of each common and of each other word of a list."""

    common: int
    other: int


@dataclass(frozen=True)
class CommonWords(Task[CommonChoices, list[str]]):
    """A list of different words, ten of them repeated most, after a worked example in the same form.

    Attributes:
        repeats: of the list of the question.
        example_size: different words of the worked example.
        example_repeats: of the worked example.
    """

    repeats: Repeats = Repeats(30, 3)
    example_size: int = 40
    example_repeats: Repeats = Repeats(10, 3)
    metric: str = "string_match_all"
    max_new_tokens: int = 120

    @property
    def minimum_size(self) -> int:
        """One word is not among the answers."""
        return ANSWERS + 1

    def needs(self, length: int) -> list[str]:
        """RULER's long list of English words, where a prompt may hold more words than wonderwords has."""
        numbers = self.repeats.common * ANSWERS + self.repeats.other * (len(pool()) - ANSWERS)
        return ["english_words"] if length > TOKENS_EACH * numbers else []

    def read(self, files: list[bytes], split: Split) -> list[str]:
        """Return the words beyond the pool, empty where the length needs none; both splits share them.

        Raises:
            AssetError: the file is not RULER's `english_words.json`.
        """
        return english_words(files[0]) if files else []

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task with the repeats of its length."""
        if length >= LONG:
            return self
        return replace(self, repeats=Repeats(6, 1), example_size=20, example_repeats=Repeats(3, 1))

    def draw(self, rng: Random, size: int, split: Split, data: list[str], index: int) -> CommonChoices:
        """Draw the example, then the list of `size` different words; answers belong to `split`, the others to either.

        Raises:
            LengthError: there are too few words.
        """
        example = _draw(rng, self.example_size, split, [], self.example_repeats)
        return CommonChoices(_draw(rng, size, split, data, self.repeats), example)

    def render(self, choices: CommonChoices, data: list[str]) -> Rendering:
        """Write the worked example, then the same form without its answer."""
        answers = choices.numbered.words[:ANSWERS]
        solved = _numbered(choices.example.words[:ANSWERS])
        example = _context(choices.example) + QUESTION + ANSWER_PREFIX + " " + solved + "\n"
        return Rendering(example + _context(choices.numbered), QUESTION, ANSWER_PREFIX, answers)


def _draw(rng: Random, size: int, split: Split, more: list[str], repeats: Repeats) -> WordList:
    """Draw words and their order. RULER shuffles all samples of a size by one permutation; here each has its own.

    Beyond the pool only the missing words come from `more` (RULER then takes all from there), so that the text grows
    by little with each word and any length can be filled.
    """
    words = pool()
    if size > len(words):
        words = words + rng.sample(more, min(size - len(words), len(more)))
    # The search grows a size that is too small by a quarter: it goes further only where all words were too few.
    if size > len(words) * 5 // 4 + 1:
        raise LengthError(f"all {len(words)} different words do not fill the prompt; choose a shorter length")
    common, others = _common_and_others(rng, words, min(size, len(words)), split)
    order = [place for place in range(ANSWERS) for _ in range(repeats.common)]
    order += [ANSWERS + place for place in range(len(others)) for _ in range(repeats.other)]
    rng.shuffle(order)
    return WordList(common + others, order)


def _common_and_others(rng: Random, words: list[str], size: int, split: Split) -> tuple[list[str], list[str]]:
    """Draw `size` words; the first ones that belong to `split` are the common ones."""
    common: list[str] = []
    others: list[str] = []
    for place in shuffled(rng, len(words)):
        if len(common) < ANSWERS and split_of(words[place]) == split:
            common.append(words[place])
        elif len(others) < size - ANSWERS:
            others.append(words[place])
        if len(common) + len(others) == size:
            break
    return common, others


def _context(numbered: WordList) -> str:
    """Return the instruction and the list."""
    return INSTRUCTION + _numbered(numbered.words[place] for place in numbered.order) + "\n"


def _numbered(words: Iterable[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


@cache
def pool() -> list[str]:
    """Return wonderwords' nouns, adjectives and verbs, each word once."""
    return sorted({word for part in PARTS for word in word_list(part)})


@cache
def english_words(content: bytes) -> list[str]:
    """Return the words of RULER's `english_words.json`, a word by each number, that the pool lacks.

    Raises:
        AssetError: the content is something else, as the pointer that Git LFS leaves.
    """
    try:
        words = list(json.loads(content).values())
    except (ValueError, AttributeError):
        words = [None]
    if not all(isinstance(word, str) for word in words):
        raise AssetError(
            "file english_words is no JSON object of words; fetch RULER's english_words.json itself, not its Git LFS "
            "pointer"
        )
    return sorted(set(words) - set(pool()))


TASKS = {"cwe": CommonWords()}
