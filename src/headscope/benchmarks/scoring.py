"""The score of one answer, by the metrics of the benchmark that asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Score:
    """One answer's score.

    Attributes:
        value: 0-100, not rounded.
        failed: the official metric gave up on this answer and counts it as 0.
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
    found: Score = import_module(f"{__package__}.{kind}.metrics").score(row, prediction)
    return found
