"""What a generated task must offer, so that the sampler, the prompts stage and the tests can serve any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, Self, TypeVar
from zlib import crc32

Split = Literal["evaluation", "calibration"]
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
        question: what is asked, one line or several, to the end of the user's turn.
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


class Task(Protocol[Choices, Data]):
    """A generated task: random choices apart from their text, so that official samples can be rendered again.

    `Choices` is a frozen dataclass of plain data. `Data` is what the task reads from its files: prose, questions,
    words; None where it reads none. A task's size counts units of context, whatever they are: lines, words, documents.
    The text grows with it.
    """

    @property
    def metric(self) -> str:
        """The metric's name; only evaluation imports metrics, so a metric's fix renews no prompt."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens that a dense answer may take."""

    @property
    def minimum_size(self) -> int:
        """The smallest size that `draw` accepts."""

    def needs(self, length: int) -> list[str]:
        """Name the benchmark files that `read` wants for prompts of `length` tokens."""

    def read(self, files: list[bytes], split: Split) -> Data:
        """Make the task's data of the files that it needs; what decides an answer belongs to one split alone."""

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task with those of its constants set that depend on the length and the model's tokenizer.

        Args:
            length: tokens of the whole prompt with its answer.
            budget: those left for the user's turn and the answer prefix.
            count: measures a text in tokens.
        """

    def draw(self, rng: Random, size: int, split: Split, data: Data, index: int) -> Choices:
        """Make all random choices of sample `index`; keys and values of the two splits never meet."""

    def render(self, choices: Choices, data: Data) -> Rendering:
        """Write the choices out."""


class Plain:
    """The parts of a task that reads no file and has no constant that depends on length or tokenizer."""

    def needs(self, length: int) -> list[str]:
        """No file."""
        return []

    def read(self, files: list[bytes], split: Split) -> None:
        """No data."""

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Nothing to set."""
        return self
