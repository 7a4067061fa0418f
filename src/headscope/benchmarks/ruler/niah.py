"""Needle in a haystack: name the values of one or several keys hidden in noise, prose or other needles."""

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Literal

from headscope.benchmarks.prose import sentences
from headscope.benchmarks.ruler.haystack import NOISE, first_words, insert, prose_of
from headscope.benchmarks.ruler.needles import Kind, draw_distinct, maker
from headscope.benchmarks.task import Rendering, Split, Task

INSTRUCTION = (
    "Some special magic {kind} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {kind} afterwards.\n"
)
QUESTION = "What are all the special magic {kind} for {query} mentioned in the provided text?"
ANSWER_PREFIX = " The special magic {kind} for {query} mentioned in the provided text are"
NEEDLE = "One of the special magic {kind} for {key} is: {value}."

# RULER's singular, in its order. Applied to the task's own strings only: over a chat template it makes "You is".
SINGULAR = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))

# Where needles may lie in prose, in percent of its sentences: 40 points, rounded half to even.
DEPTHS = tuple(round(100 * point / 39) for point in range(40))


@dataclass(frozen=True)
class NeedleChoices:
    """The draws of one sample.

    Attributes:
        size: lines of noise or of other needles, or words of prose.
        needles: (key, value) in reading order.
        places: for each needle the line it precedes, or its depth in prose in percent; ascending.
        queries: (key, its values) in the order of the question.
        others: (key, value) of the needles that make the haystack; else empty.
    """

    size: int
    needles: list[tuple[str, str]]
    places: list[int]
    queries: list[tuple[str, list[str]]]
    others: list[tuple[str, str]]


@dataclass(frozen=True)
class Niah(Task[NeedleChoices, str]):
    """Needles in a haystack.

    Attributes:
        haystack: what surrounds the needles.
        prose: name of the file that an essay haystack is made of.
        value_kind, key_kind: what values and keys look like.
        keys, values, queries: needles' keys, values a key, and keys of the question.
    """

    haystack: Literal["noise", "essay", "needles"]
    prose: str = ""
    value_kind: Kind = "numbers"
    key_kind: Kind = "words"
    keys: int = 1
    values: int = 1
    queries: int = 1
    metric: str = "string_match_all"
    max_new_tokens: int = 128

    @property
    def minimum_size(self) -> int:
        """Every needle has a line, or a word, of its own to precede."""
        return self.keys * self.values

    def needs(self, length: int) -> list[str]:
        """The file of an essay haystack."""
        return [self.prose] if self.prose else []

    def read(self, files: list[bytes], split: Split) -> str:
        """Return the split's part of the prose, white space collapsed."""
        return prose_of(files[0].decode("utf-8"), split) if files else ""

    def draw(self, rng: Random, size: int, split: Split, data: str, index: int) -> NeedleChoices:
        """Draw keys, values, the queries, the order of the needles and their places."""
        others = size if self.haystack == "needles" else 0
        keys = draw_distinct(self.keys + others, split, maker(self.key_kind, rng))
        values = draw_distinct(self.keys * self.values + others, split, maker(self.value_kind, rng))
        values_of = {key: values[i * self.values : (i + 1) * self.values] for i, key in enumerate(keys[: self.keys])}
        queries = [(key, values_of[key]) for key in rng.sample(keys[: self.keys], self.queries)]
        needles = [(key, value) for key in values_of for value in values_of[key]]
        rng.shuffle(needles)
        places = sorted(rng.sample(DEPTHS if self.haystack == "essay" else range(size), len(needles)))
        lines = zip(keys[self.keys :], values[len(needles) :], strict=True)
        return NeedleChoices(size, needles, places, queries, list(lines))

    def render(self, choices: NeedleChoices, data: str) -> Rendering:
        """Write instruction, haystack with needles, question and answer prefix."""
        keys = [key for key, _ in choices.queries]
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        kind, (instruction, question, prefix) = self._wording()
        return Rendering(
            context=instruction.format(kind=kind) + self._context(choices, data) + "\n",
            question=question.format(kind=kind, query=query),
            answer_prefix=prefix.format(kind=kind, query=query),
            references=[value for _, values in choices.queries for value in values],
        )

    def _wording(self) -> tuple[str, list[str]]:
        """Return the kind of value and the three templates, in the singular where the answer is one value."""
        templates = [INSTRUCTION, QUESTION, ANSWER_PREFIX]
        if self.queries * self.values > 1:
            return self.value_kind, templates
        for plural, singular in SINGULAR:
            templates = [template.replace(plural, singular) for template in templates]
        return self.value_kind.removesuffix("s"), templates

    def _context(self, choices: NeedleChoices, prose: str) -> str:
        needles = self._needles(choices.needles)
        if self.haystack == "essay":
            return in_prose(first_words(prose, choices.size), needles, choices.places)
        lines = self._needles(choices.others) if self.haystack == "needles" else [NOISE] * choices.size
        return "\n".join(insert(lines, needles, choices.places))

    def _needles(self, pairs: list[tuple[str, str]]) -> list[str]:
        return [NEEDLE.format(kind=self.value_kind, key=key, value=value) for key, value in pairs]


def in_prose(text: str, needles: list[str], depths: list[int]) -> str:
    """Put needles between the sentences of `text` at `depths`, in percent.

    A needle at either end has an empty neighbour, as in RULER: its space stays.
    """
    units = sentences(text)
    cuts = [0, *(int(len(units) * (depth / 100)) for depth in depths), len(units)]
    parts = [" ".join(units[first:last]) for first, last in pairwise(cuts)]
    pieces = parts[:1]
    for needle, part in zip(needles, parts[1:], strict=True):
        pieces += [needle, part]
    return " ".join(pieces)


ESSAY_TASKS = {
    "niah_single_2": Niah("essay"),
    "niah_single_3": Niah("essay", value_kind="uuids"),
    "niah_multikey_1": Niah("essay", keys=4),
    "niah_multivalue": Niah("essay", values=4),
    "niah_multiquery": Niah("essay", keys=4, queries=4),
}

# The official names mean the official essays; with the packaged prose a task has a name that says so.
TASKS = {
    "niah_single_1": Niah("noise"),
    "niah_multikey_2": Niah("needles"),
    "niah_multikey_3": Niah("needles", value_kind="uuids", key_kind="uuids"),
    **{name: replace(task, prose="essays") for name, task in ESSAY_TASKS.items()},
    **{f"{name}_prose": replace(task, prose="prose") for name, task in ESSAY_TASKS.items()},
}
