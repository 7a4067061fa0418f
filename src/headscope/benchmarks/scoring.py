"""Scores one answer by the metrics of its benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Score:
    """One answer's score.

    Attributes:
        value: 0-100, not rounded.
        failed: the official metric gave up on the answer, for one reference at least, and counts that as 0; the value
            may be too low.
    """

    value: float
    failed: bool = False


def score(kind: str, row: Mapping[str, Any], prediction: str) -> Score:
    """Score a raw prediction.

    Args:
        kind: of the benchmark, a package of headscope.benchmarks with a module `metrics`.
        row: the prompt's `task`, `metric`, `references` and `classes`.
        prediction: the answer as it was generated.
    """
    answer: Score = import_module(f"{__package__}.{kind}.metrics").score(row, prediction)
    return answer


def mean(scores: Sequence[Score]) -> float:
    """Return the score that the benchmarks report for a task: the mean over its samples, 0-100, two digits.

    Args:
        scores: one a sample, at least one.
    """
    return round(sum(score.value for score in scores) / len(scores), 2)


def is_null(prediction: str) -> bool:
    """Return True for nothing but white space and control characters; RULER counts such answers as "Nulls"."""
    return all(character.isspace() or character < " " for character in prediction)
