"""Random words, numbers and codes of RULER; each belongs to one split."""

import string
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from random import Random
from typing import Literal

from headscope.benchmarks.task import Split, split_of

Kind = Literal["words", "numbers", "uuids"]


def distinct(split: Split, make: Callable[[], str]) -> Iterator[str]:
    """Yield different texts of `split` that `make` draws, without end."""
    texts: set[str] = set()
    while True:
        text = make()
        if text not in texts and split_of(text) == split:
            texts.add(text)
            yield text


def draw_distinct(count: int, split: Split, make: Callable[[], str]) -> list[str]:
    """Draw `count` different texts of `split` with `make`, in the order they came."""
    return list(islice(distinct(split, make), count))


def maker(kind: Kind, rng: Random) -> Callable[[], str]:
    """Return a function that draws one `kind`: adjective-noun, seven digits, or 128 random bits as a UUID."""
    if kind == "words":
        return lambda: f"{rng.choice(word_list('adjective'))}-{rng.choice(word_list('noun'))}"
    if kind == "numbers":
        return lambda: str(rng.randint(10**6, 10**7 - 1))
    return lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))


def letters(rng: Random, alphabet: str, length: int) -> Callable[[], str]:
    """Return a function that draws one string of random letters."""
    return lambda: "".join(rng.choices(alphabet, k=length))


def shuffled(rng: Random, count: int) -> Iterator[int]:
    """Yield `range(count)` in random order; each number costs the same, so a few of very many are cheap."""
    moved: dict[int, int] = {}
    for place in range(count):
        other = rng.randrange(place, count)
        yield moved.get(other, other)
        moved[other] = moved.get(place, place)


@cache
def word_list(part: Literal["noun", "adjective", "verb"]) -> list[str]:
    """Return wonderwords' own list, as RULER reads it (the package's public functions filter it)."""
    lines = files("wonderwords.assets").joinpath(f"{part}list.txt").read_text(encoding="utf-8").splitlines()
    return [line.rstrip() for line in lines]


UPPER, LOWER = string.ascii_uppercase, string.ascii_lowercase
