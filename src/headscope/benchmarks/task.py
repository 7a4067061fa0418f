"""A generated task, its text in parts, and the two splits."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Literal, Self, TypeVar
from zlib import crc32

Split = Literal["evaluation", "calibration"]
SPLITS: tuple[Split, ...] = ("evaluation", "calibration")
Choices = TypeVar("Choices")
Data = TypeVar("Data")


def split_of(text: str) -> Split:
    """Return the split that a text belongs to (a key, a value, a word, a question): a fixed half of all there are."""
    return "calibration" if crc32(text.encode()) % 2 else "evaluation"


@dataclass(frozen=True)
class Rendering:
    """One sample's text, in the three parts that the pipeline tells apart.

    Attributes:
        context: instruction and context, up to the first character of the question.
        question: one line or several, to the end of the user's turn.
        answer_prefix: the first words of the answer, put into the model's mouth.
        references: the strings that an answer should hold.
    """

    context: str
    question: str
    answer_prefix: str
    references: list[str]

    @property
    def text(self) -> str:
        """The user's turn: context and question."""
        return self.context + self.question

    @property
    def question_offset(self) -> int:
        """Where the question starts in `text`, in characters."""
        return len(self.context)


class Task(Generic[Choices, Data]):
    """A generated task: random choices apart from their text, so that official samples can be rendered again.

    `Choices` is a frozen dataclass of plain data. `Data` is what the task reads from its files: prose, questions,
    words. A task's size counts units of context, whatever they are: lines, words, documents. The text grows with it.

    Attributes:
        metric: its name; only evaluation imports metrics, so a metric's fix renews no prompt.
        max_new_tokens: tokens that a dense answer may take.
    """

    metric: str
    max_new_tokens: int

    @property
    def minimum_size(self) -> int:
        """The smallest size that `draw` accepts."""
        raise NotImplementedError

    def needs(self, length: int) -> list[str]:
        """Name the benchmark files that `read` wants for prompts of `length` tokens."""
        return []

    def read(self, files: list[bytes], split: Split) -> Any:
        """Return the task's data out of its files, None without files; an answer's facts belong to one split."""

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task with its constants set for the length and the model's tokenizer.

        Args:
            length: tokens of the whole prompt with its answer.
            budget: those left for the user's turn and the answer prefix.
            count: measures a text in tokens.
        """
        return self

    def draw(self, rng: Random, size: int, split: Split, data: Data, index: int) -> Choices:
        """Make all random choices of sample `index`; keys and values of the two splits never meet."""
        raise NotImplementedError

    def render(self, choices: Choices, data: Data) -> Rendering:
        """Write the choices out."""
        raise NotImplementedError
