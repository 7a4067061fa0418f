"""RULER's haystacks: lines of noise, or prose, with sentences put in."""

from collections.abc import Sequence
from functools import cache

from headscope.benchmarks.prose import sentences
from headscope.benchmarks.task import Split
from headscope.errors import AssetError

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def insert(units: Sequence[str], extra: Sequence[str], places: Sequence[int]) -> list[str]:
    """Return `units` with `extra[i]` before the unit `places[i]`; `places` counts original units and ascends."""
    result = list(units)
    for place, text in reversed(list(zip(places, extra, strict=True))):
        result.insert(place, text)
    return result


def first_words(prose: str, size: int) -> str:
    """Return the first `size` words of `prose`, which starts again when it ends.

    Raises:
        AssetError: there is no prose.
    """
    words = _words(prose)
    if not words:
        raise AssetError("the haystack's prose is empty; give a text with at least one sentence")
    return " ".join((words * -(-size // len(words)))[:size])


@cache
def prose_of(prose: str, split: Split) -> str:
    """Return the part of `prose` that belongs to `split`, white space collapsed: no sentence belongs to both.

    Evaluation has the first half of the sentences, calibration the others that do not repeat one of them.
    """
    all_sentences = sentences(" ".join(prose.split()))
    half = (len(all_sentences) + 1) // 2
    first = all_sentences[:half]
    if split == "evaluation":
        return " ".join(first)
    evaluation = set(first)
    return " ".join(sentence for sentence in all_sentences[half:] if sentence not in evaluation)


@cache
def _words(prose: str) -> list[str]:
    return prose.split()
