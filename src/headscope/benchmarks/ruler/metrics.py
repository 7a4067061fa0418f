"""RULER's metrics: references count where they occur in the answer, whatever surrounds them, in any case."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headscope.benchmarks.scoring import Score

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")


def postprocess(prediction: str) -> str:
    """Strip, put a new line for every control character, strip again."""
    return CONTROL_CHARACTERS.sub("\n", prediction.strip()).strip()


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the share of references that occur in the prediction."""
    return sum(reference.lower() in prediction.lower() for reference in references) / len(references)


def string_match_part(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if any reference occurs in the prediction, else 0."""
    return float(any(reference.lower() in prediction.lower() for reference in references))


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
}


def score(row: Mapping[str, Any], prediction: str) -> Score:
    """Score a raw prediction against a row's `references` by its `metric`, 0-100, not rounded."""
    return Score(100 * METRICS[row["metric"]](postprocess(prediction), row["references"]))
