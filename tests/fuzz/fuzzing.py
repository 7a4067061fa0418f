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
        faults: an input and its number by each fault's last line and place.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add_fault(self, fault: str, value: Any) -> None:
        self.counts["faults"] += 1
        example, number = self.faults.get(fault, (repr(value), 0))
        self.faults[fault] = min(example, repr(value), key=len), number + 1

    def __str__(self) -> str:
        return "\n".join(f"{number} x {fault}\n    {example[:200]}" for fault, (example, number) in self.faults.items())


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
                ends.add_fault("a refusal is not one line", value)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            last = traceback.format_exception_only(error)[-1].strip()[:100]
            ends.add_fault(f"{last} ({place.filename.rpartition('/')[2]}, {place.name})", value)
        else:
            ends.counts["results"] += 1

    once()
    return ends
