"""Variable tracking: name all variables that a chain of assignments gives one value."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Self

from headscope.benchmarks.ruler.haystack import NOISE, insert
from headscope.benchmarks.ruler.needles import UPPER, draw_distinct, letters
from headscope.benchmarks.sizes import fitting_size
from headscope.benchmarks.task import Rendering, Split, Task

INSTRUCTION = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
QUESTION = "Question: Find all variables that are assigned the value {value} in the text above."
ANSWER_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are assigned "
    "the value {value}, they are: "
)
EXAMPLE_TOKENS = 500


@dataclass(frozen=True)
class Chain:
    """One chain hidden in noise.

    Attributes:
        size: lines of noise.
        value: assigned to the first variable.
        variables: in the order of the chain.
        places: for each assignment the line of noise it precedes; ascending.
    """

    size: int
    value: str
    variables: list[str]
    places: list[int]


@dataclass(frozen=True)
class TrackingChoices:
    """The draws of one sample: the chain of the question and the worked example's."""

    chain: Chain
    example: Chain


@dataclass(frozen=True)
class VariableTracking(Task[TrackingChoices, None]):
    """One chain of `variables` assignments in noise, after a worked example in the same form."""

    variables: int = 5
    example_size: int = 15
    metric: str = "string_match_all"
    max_new_tokens: int = 30

    @property
    def minimum_size(self) -> int:
        """Every assignment has a line of its own to precede."""
        return self.variables

    def fit(self, length: int, budget: int, count: Callable[[str], int]) -> Self:
        """Return the task with a worked example of at most 500 tokens, or the shortest there is."""

        def example_tokens(size: int) -> int:
            return count(_solved(self._chain(Random(0), size, "evaluation", letters_each=3)))

        size = fitting_size(example_tokens, self.minimum_size, EXAMPLE_TOKENS, EXAMPLE_TOKENS, start=self.example_size)
        return replace(self, example_size=size)

    def draw(self, rng: Random, size: int, split: Split, data: None, index: int) -> TrackingChoices:
        """Draw the example's chain, then the question's."""
        example = self._chain(rng, self.example_size, split, letters_each=3)
        return TrackingChoices(self._chain(rng, size, split, letters_each=5), example)

    def render(self, choices: TrackingChoices, data: None) -> Rendering:
        """Write the worked example, then the same form without its answer."""
        context, question, prefix = _parts(choices.chain)
        example = _solved(choices.example) + "\n"
        return Rendering(example + context, question, prefix, choices.chain.variables)

    def _chain(self, rng: Random, size: int, split: Split, letters_each: int) -> Chain:
        variables = draw_distinct(self.variables, split, letters(rng, UPPER, letters_each))
        [value] = draw_distinct(1, split, lambda: str(rng.randint(10000, 99998)))
        return Chain(size, value, variables, sorted(rng.sample(range(size), self.variables)))


def _parts(chain: Chain) -> tuple[str, str, str]:
    """Return context, question and answer prefix of one chain."""
    links = [f"VAR {new} = VAR {old} " for old, new in pairwise(chain.variables)]
    assignments = [f"VAR {chain.variables[0]} = {chain.value}", *links]
    lines = insert([NOISE] * chain.size, assignments, chain.places)
    return (
        INSTRUCTION + "\n".join(lines) + "\n",
        QUESTION.format(value=chain.value),
        ANSWER_PREFIX.format(value=chain.value, count=len(chain.variables)),
    )


def _solved(chain: Chain) -> str:
    """Return a chain's text with its answer: RULER's prefix ends in a space, and another one follows."""
    return "".join(_parts(chain)) + " " + " ".join(chain.variables) + "\n"


TASKS = {"vt": VariableTracking()}
