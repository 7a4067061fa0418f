"""Fuzzing: every input ends in a result or in one line that names what is wrong.

A kind of input has a strategy and a check. The check returns (a result), raises a `HeadscopeError` of one line (a
refusal), or raises anything else (a fault): an `AssertionError` of its own where a result is silently wrong.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from headscope.errors import HeadscopeError


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        name: for people.
        inputs: draws one.
        check: does with it what a user would.
        ci: inputs in CI.
        long: inputs of every 10,000 of the long run.
    """

    name: str
    inputs: SearchStrategy[Any]
    check: Callable[[Any], object]
    ci: int
    long: int


@dataclass
class Ends:
    """How the inputs of a kind ended.

    Attributes:
        counts: results, refusals and faults.
        faults: by type and place of a fault: its number, its shortest input and what was raised there.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[int, str, str]] = field(default_factory=dict)

    def add_fault(self, error: Exception, value: Any) -> None:
        self.counts["faults"] += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        fault = f"{type(error).__name__} in {place.filename.rpartition('/')[2]}, {place.name}"
        message = " ".join(str(error).split())
        number, example, words = self.faults.get(fault, (0, repr(value), message))
        if len(repr(value)) < len(example):
            example, words = repr(value), message
        self.faults[fault] = number + 1, example, words

    def __str__(self) -> str:
        return "\n".join(
            f"- {number} x {fault}: {words[:150]}\n  {example[:200]}"
            for fault, (number, example, words) in self.faults.items()
        )


def run(kind: Kind, inputs: int, seed: int = 0) -> Ends:
    """Check a number of inputs, the same for the same seed."""
    ends = Ends()

    @hypothesis.seed(seed)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.inputs)
    def once(value: Any) -> None:
        try:
            kind.check(value)
        except HeadscopeError as error:
            if len(str(error).splitlines()) == 1:
                ends.counts["refusals"] += 1
            else:
                ends.add_fault(error, value)
        except Exception as error:
            ends.add_fault(error, value)
        else:
            ends.counts["results"] += 1

    once()
    return ends
