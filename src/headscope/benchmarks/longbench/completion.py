"""Completion of code from the standard library by its next line, as in LongBench's `lcc`.

The last lines are the input, as in `repobench-p`, and the text ends with them, without the end of its last line: models
write that and the next line's indentation as one token.
"""

import builtins
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from keyword import kwlist
from random import Random

from headscope.benchmarks.longbench.library import without_strings
from headscope.benchmarks.sizes import fitting_size
from headscope.errors import LengthError

# The line to write uses a name that the lines just before it do not show.
NEAR_LINES = 25
INPUT_LINES = 5
LINE_LENGTHS = range(20, 101)
LEAST_LETTERS = 6
NAME = re.compile(r"[A-Za-z_]\w*")
COMMON = frozenset([*kwlist, *dir(builtins)])
# A context is cut before the line where it fills the limit so far; a line whose name is not in it is passed over.
GOOD_FILL = 0.96
TRIES = 100


@dataclass(frozen=True)
class Code:
    """Modules as one text, which starts again after its end.

    Attributes:
        sources: of the modules, in order.
    """

    sources: Sequence[str]

    @cached_property
    def lines(self) -> list[str]:
        """All lines, twice, each with its end."""
        return 2 * [f"{line}\n" for source in self.sources for line in _lines(source)]

    @cached_property
    def names(self) -> list[frozenset[str]]:
        """The uncommon names in each line's code, strings and comments left out."""
        lines = (line for source in self.sources for line in _lines(without_strings(source)))
        return 2 * [frozenset(filter(_is_uncommon, NAME.findall(line))) for line in lines]

    def targets(self, rng: Random) -> Iterator[int]:
        """Yield, in random order, the lines of code that use a name which the NEAR_LINES before them do not."""
        order = list(range(len(self.lines) // 2, len(self.lines)))
        rng.shuffle(order)
        return (index for index in order if self._can_be_scored(index) and self._far_names(index))

    def needs_context(self, target: int, size: int) -> bool:
        """Return True if a name of the target that is not near occurs in the `size` lines before it."""
        far = self._far_names(target)
        return any(far & names for names in self.names[max(0, target - size) : target - NEAR_LINES])

    def before(self, target: int, size: int) -> tuple[str, str]:
        """Return context and input: of the `size` lines before the target, the last INPUT_LINES are the input."""
        at = target - INPUT_LINES
        return "".join(self.lines[max(0, target - size) : at]), "".join(self.lines[at:target]).rstrip("\n")

    def _can_be_scored(self, index: int) -> bool:
        """Return True for a line of fair length that the metric takes for code and that has lines before it."""
        line = self.lines[index].strip()
        has_input = any(map(str.strip, self.lines[index - INPUT_LINES : index]))
        return len(line) in LINE_LENGTHS and has_input and not re.search("`|#|//", line)

    def _far_names(self, index: int) -> frozenset[str]:
        return self.names[index].difference(*self.names[max(0, index - NEAR_LINES) : index])


def draws(
    sources: Sequence[str], seed: str, tokens: Callable[[str, str], int], limit: int
) -> Iterator[tuple[str, str, str]]:
    """Yield context, input (the last lines) and the next line, which is the answer, with its indentation.

    Args:
        sources: the modules to take lines from.
        seed: of the order of lines.
        tokens: measures the filled template, given context and input.
        limit: tokens that it may have.

    Raises:
        LengthError: the limit is too short for lines that need their context, or longer than all modules.
    """
    code, size, misses = Code(sources), NEAR_LINES + 1, 0
    for target in code.targets(Random(seed)):
        measured = partial(_measured, code, target, tokens)
        size = fitting_size(measured, NEAR_LINES + 1, GOOD_FILL * limit, limit, size)
        if code.needs_context(target, size) and measured(size) <= limit:
            misses = 0
            yield *code.before(target, size), code.lines[target].rstrip()
        elif (misses := misses + 1) == TRIES:
            break
    raise LengthError(
        f"{limit} tokens are too few for code whose next line needs more than its last {NEAR_LINES} lines: none of "
        f"{misses} lines does; choose a greater length"
    )


def _measured(code: Code, target: int, tokens: Callable[[str, str], int], size: int) -> int:
    return tokens(*code.before(target, size))


def _lines(source: str) -> list[str]:
    return source.rstrip("\n").split("\n")


def _is_uncommon(name: str) -> bool:
    return sum(map(str.isalpha, name)) >= LEAST_LETTERS and name not in COMMON
