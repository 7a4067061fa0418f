"""Metrics of reasoned and of chosen answers: the number, or the letter, that an answer settles on is right or wrong."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from headscope.benchmarks.scoring import Score

NEXT_QUESTION = re.compile(r"^\s*Question:", re.MULTILINE)
MARK = "####"

# Commas only between thousands; a minus is a sign where no term stands before it: "is -3", not "10-3".
NUMBER = re.compile(r"(?:(?<![\w.)])-)?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
LETTER = re.compile(r"(?<![^\W_])[A-D](?![^\W_])")


def number_of(text: str) -> Decimal | None:
    """Return the number that a text settles on: the first one after "####", where that is, else the last of all.

    Text after the start of a new question does not count.
    """
    answer = NEXT_QUESTION.split(text, maxsplit=1)[0].replace("$", "").replace("\u2212", "-")
    marked = NUMBER.findall(answer.partition(MARK)[2])
    numbers = marked[:1] or NUMBER.findall(answer)[-1:]
    return Decimal(numbers[0].replace(",", "")) if numbers else None


def letter_of(text: str) -> str | None:
    """Return the first letter from A to D that stands alone in a text's first line."""
    match = LETTER.search(text.strip().partition("\n")[0])
    return match[0] if match else None


def last_number(prediction: str, reference: str) -> bool:
    """Return True if the prediction settles on the reference's number, however both are written."""
    number = number_of(prediction)
    return number is not None and number == number_of(reference)


def choice_letter(prediction: str, reference: str) -> bool:
    """Return True if the prediction chooses the reference, a letter."""
    return letter_of(prediction) == reference


METRICS: dict[str, Callable[[str, str], bool]] = {"last_number": last_number, "choice_letter": choice_letter}


def score(row: Mapping[str, Any], prediction: str) -> Score:
    """Score one raw prediction, 100 or 0.

    Args:
        row: the prompt's `metric`, a name in METRICS, and its one reference in `references`.
        prediction: the answer as it was generated.
    """
    [reference] = row["references"]
    return Score(100.0 * METRICS[row["metric"]](prediction, reference))
