"""Many-shot tasks: each sample draws its own shots, as many as the length holds, before one more question."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from math import inf
from random import Random
from typing import Self

from headscope.benchmarks.task import Rendering, Split, Task, split_of
from headscope.errors import AssetError, LengthError

ANSWER_PREFIX = "\nAnswer:"

# Shots that take more of the budget are passed over: where the next shot is one too many, 90 % of the length is filled.
LONGEST_SHARE = 0.09


@dataclass(frozen=True)
class Item:
    """A question with its answer.

    Attributes:
        question: the text up to the answer prefix.
        answer: the text of a shot after the prefix.
        reference: answers are scored against it.
    """

    question: str
    answer: str
    reference: str

    @property
    def shot(self) -> str:
        """The worked example."""
        return f"{self.question}{ANSWER_PREFIX} {self.answer}\n\n"


@dataclass(frozen=True)
class Items:
    """Shots and questions by their line in the file, each text once; no question is also a shot.

    Attributes:
        shots: of both splits.
        questions: of one split, in the order of the samples.
    """

    shots: dict[int, Item]
    questions: dict[int, Item]


@dataclass(frozen=True)
class ShotChoices:
    """The draws of one sample: lines of the shots in the order they are shown, and of the question."""

    shots: list[int]
    question: int


@dataclass(frozen=True)
class ManyShot(Task[ShotChoices, Items]):
    """Shots of one file before a question of another; a text's size is the number of its shots.

    Attributes:
        files: names of the file of shots and of the file of questions.
        parse: reads a file, given its contents and name, into items by line.
        metric: scores an answer.
        max_new_tokens: of an answer.
        instruction: stands before the shots.
        count: measures a text, in tokens once the task is fitted.
        longest: tokens of the longest shot that is shown.
    """

    files: tuple[str, str]
    parse: Callable[[bytes, str], dict[int, Item]]
    metric: str
    max_new_tokens: int
    instruction: str = ""
    count: Callable[[str], int] = len
    longest: float = inf

    @property
    def minimum_size(self) -> int:
        """One shot shows the form of an answer."""
        return 1

    def needs(self, length: int) -> list[str]:
        """The file of shots and the file of questions."""
        return list(self.files)

    def read(self, files: list[bytes], split: Split) -> Items:
        """Return all shots, and the split's questions in a fixed random order, since a file may go by subject."""
        shots, questions = (self.parse(contents, name) for contents, name in zip(files, self.files, strict=True))
        lines = list(questions)
        Random(f"order of {self.files[1]}").shuffle(lines)
        unique = _first_of_each((line, questions[line]) for line in lines)
        texts = {item.question for item in unique.values()}
        return Items(
            {line: item for line, item in _first_of_each(shots.items()).items() if item.question not in texts},
            {line: item for line, item in unique.items() if split_of(item.question) == split},
        )

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task that passes over shots too long for the budget."""
        return replace(self, count=cache(count), longest=LONGEST_SHARE * budget)

    def draw(self, rng: Random, size: int, split: Split, data: Items, index: int) -> ShotChoices:
        """Draw the shots; a larger size has the shots of a smaller one and more, so that the text grows with it.

        Raises:
            AssetError: there is no question `index`.
            LengthError: the file has too few shots.
        """
        if index >= len(data.questions):
            raise AssetError(
                f"the file {self.files[1]} has {len(data.questions)} questions for {split}, one for each sample; ask "
                "for no more samples than that"
            )
        order = list(data.shots)
        rng.shuffle(order)
        shots = list(islice((line for line in order if self.count(data.shots[line].shot) <= self.longest), size))
        # The search grows a size that is too small by a quarter: it goes further only where all shots were too few.
        if size > len(shots) * 5 // 4 + 1:
            raise LengthError(
                f"{self.files[0]} has {len(shots)} shots of at most {self.longest:.0f} tokens, which together do not "
                "fill the prompt; choose a shorter length or give a file with more shots"
            )
        return ShotChoices(shots, list(data.questions)[index])

    def render(self, choices: ShotChoices, data: Items) -> Rendering:
        """Write instruction, shots, question and answer prefix."""
        shots = "".join(data.shots[line].shot for line in choices.shots)
        item = data.questions[choices.question]
        return Rendering(self.instruction + shots, item.question, ANSWER_PREFIX, [item.reference])


def _first_of_each(items: Iterable[tuple[int, Item]]) -> dict[int, Item]:
    """Return the items without repeated questions: the first item of each stays."""
    first: dict[str, tuple[int, Item]] = {}
    for line, item in items:
        first.setdefault(item.question, (line, item))
    return dict(first.values())
