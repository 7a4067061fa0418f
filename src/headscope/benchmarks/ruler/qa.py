"""Question answering over documents, one or a few of which hold the answer: SQuAD, HotpotQA, or made-up documents."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from headscope.benchmarks.ruler import inventions
from headscope.benchmarks.ruler.inventions import Invention
from headscope.benchmarks.ruler.needles import shuffled
from headscope.benchmarks.ruler.questions import Library, Question, hotpotqa, squad
from headscope.benchmarks.task import Rendering, Split, Task
from headscope.errors import AssetError

INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
)
INTRODUCTION = "The following are given documents.\n\n"
ANSWER_PREFIX = " Answer:"

# A sample is full once so many of the documents drawn were too long for what was left of its size.
MISSES = 20


@dataclass(frozen=True)
class QuestionChoices:
    """The draws of one sample.

    Attributes:
        question: its place among the questions of the split.
        documents: places in the library, in reading order.
    """

    question: int
    documents: list[int]


@dataclass(frozen=True)
class QuestionAnswering(Task[QuestionChoices, Library]):
    """Question `i` of a file's split for sample `i`, among other documents of the file; a size is in words.

    Attributes:
        name: the task's.
        file: name of the benchmark file.
        parse: reads its contents.
    """

    name: str
    file: str
    parse: Callable[[bytes], Library]
    metric: str = "string_match_part"
    max_new_tokens: int = 32

    @property
    def minimum_size(self) -> int:
        """The documents that every sample shows are there at any size."""
        return 1

    def needs(self, length: int) -> list[str]:
        """The file of questions and documents."""
        return [self.file]

    def read(self, files: list[bytes], split: Split) -> Library:
        """Return all documents, and the questions whose gold documents belong to the split."""
        return self.parse(files[0]).of(split)

    def draw(self, rng: Random, size: int, split: Split, data: Library, index: int) -> QuestionChoices:
        """Draw documents that fit into `size` words beside the question's own, and the order of all.

        RULER orders all samples of a size by one permutation, so that its gold document lies at a constant depth.

        Raises:
            AssetError: the split has too few questions.
        """
        if index >= len(data.questions):
            raise AssetError(
                f"task {self.name}: {index + 1} samples of {split} are asked for, but the file {self.file} has "
                f"{len(data.questions)} questions for {split}; ask for no more than that"
            )
        question = data.questions[index]
        documents = [*question.always, *_fill(rng, size, question, data)]
        rng.shuffle(documents)
        return QuestionChoices(index, documents)

    def render(self, choices: QuestionChoices, data: Library) -> Rendering:
        """Write instruction, documents, question and answer prefix."""
        question = data.questions[choices.question]
        return _write([data.documents[place] for place in choices.documents], question.text, question.answers)


@dataclass(frozen=True)
class InventedChoices:
    """The draws of one sample.

    Attributes:
        inventions: subjects of the documents, in reading order.
        document: place of the question's document.
        fact: place of the question's fact among the document's.
    """

    inventions: list[Invention]
    document: int
    fact: int


@dataclass(frozen=True)
class InventedAnswering(Task[InventedChoices, None]):
    """A question about one of many made-up people, towns and companies, without a file; a size is in sentences."""

    metric: str = "string_match_part"
    max_new_tokens: int = 32

    @property
    def minimum_size(self) -> int:
        """An opening sentence and the fact of the question."""
        return 2

    def draw(self, rng: Random, size: int, split: Split, data: None, index: int) -> InventedChoices:
        """Draw the documents, then the document and the fact of the question."""
        things = inventions.draw(rng, size, split)
        document = rng.choice([place for place, thing in enumerate(things) if thing.facts])
        return InventedChoices(things, document, rng.randrange(len(things[document].facts)))

    def render(self, choices: InventedChoices, data: None) -> Rendering:
        """Write instruction, documents, question and answer prefix."""
        question, answer = inventions.question(choices.inventions[choices.document], choices.fact)
        return _write([inventions.text(invention) for invention in choices.inventions], question, [answer])


def _write(documents: Sequence[str], question: str, answers: list[str]) -> Rendering:
    """Return the prompt in RULER's form."""
    context = "".join(f"Document {number}:\n{text}\n\n" for number, text in enumerate(documents, start=1))
    return Rendering(
        INSTRUCTION + INTRODUCTION + context + INSTRUCTION, f"Question: {question}", ANSWER_PREFIX, answers
    )


def _fill(rng: Random, size: int, question: Question, data: Library) -> list[int]:
    """Return the documents that fit, in the order of the draw; they fill nearly the size, not quite."""
    room = size - sum(data.words[place] for place in question.always)
    documents: list[int] = []
    misses = 0
    for place in _others(rng, question, len(data.documents)):
        if data.words[place] <= room:
            documents.append(place)
            room -= data.words[place]
        elif (misses := misses + 1) == MISSES:
            break
    return documents


def _others(rng: Random, question: Question, count: int) -> Iterator[int]:
    """Yield places of documents: the near ones, all others, then all again without end; but never a gold one."""
    yield from rng.sample(question.near, len(question.near))
    shown = {*question.always, *question.near}
    while count > len(question.gold):
        yield from (place for place in shuffled(rng, count) if place not in shown)
        shown = set(question.gold)


TASKS = {
    "qa_1": QuestionAnswering("qa_1", "squad", squad),
    "qa_2": QuestionAnswering("qa_2", "hotpotqa", hotpotqa),
    "qa_generated": InventedAnswering(),
}
