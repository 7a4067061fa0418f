"""RULER's metrics: which references occur in the answer, whatever surrounds them and in whatever case."""

import re
from collections.abc import Callable, Sequence

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


def score(metric: str, prediction: str, references: Sequence[str]) -> float:
    """Return one raw prediction's score, 0-100, not rounded; `metric` is a task's."""
    return 100 * METRICS[metric](postprocess(prediction), references)


def mean_score(metric: str, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the score that RULER reports for a task: the mean over its samples, 0-100, two digits."""
    scores = [score(metric, *pair) for pair in zip(predictions, references, strict=True)]
    return round(sum(scores) / len(scores), 2)
