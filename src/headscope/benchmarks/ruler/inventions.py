"""Made-up people, towns and companies: short documents of a few facts; only one document answers each question."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from headscope.benchmarks.ruler.needles import distinct, maker, word_list
from headscope.benchmarks.task import Split

FACTS_EACH = 4
SENTENCES = 1 + FACTS_EACH


@dataclass(frozen=True)
class Invention:
    """One made-up thing.

    Attributes:
        kind: a key of KINDS.
        name: no other thing or value of the sample has it.
        year: of its first sentence; no question is about it, since too few years differ.
        facts: number of the form among those of its kind, and the value.
    """

    kind: str
    name: str
    year: int
    facts: list[tuple[int, str]]


@dataclass(frozen=True)
class Form:
    """A fact's sentence and its question, in nearly the same words; `number`: its value is one, else a name."""

    sentence: str
    question: str
    number: bool = False


@dataclass(frozen=True)
class KindOfThing:
    """The first sentence about things of a kind, and the forms of their facts."""

    opening: str
    forms: tuple[Form, ...]


KINDS = {
    "person": KindOfThing(
        "{name} was born in the year {year}.",
        (
            Form("The best friend of {name} is {value}.", "Who is the best friend of {name}?"),
            Form("{name} lives in the town of {value}.", "In which town does {name} live?"),
            Form("The dog of {name} is called {value}.", "What is the dog of {name} called?"),
            Form("The phone number of {name} is {value}.", "What is the phone number of {name}?", number=True),
        ),
    ),
    "town": KindOfThing(
        "{name} is a town that was founded in the year {year}.",
        (
            Form("The mayor of {name} is {value}.", "Who is the mayor of {name}?"),
            Form("The river of {name} is called {value}.", "What is the river of {name} called?"),
            Form("The main street of {name} is called {value}.", "What is the main street of {name} called?"),
            Form("The number of trees in {name} is {value}.", "What is the number of trees in {name}?", number=True),
        ),
    ),
    "company": KindOfThing(
        "{name} is a company that was started in the year {year}.",
        (
            Form("The head of {name} is {value}.", "Who is the head of {name}?"),
            Form("The office of {name} is in the town of {value}.", "In which town is the office of {name}?"),
            Form("The best product of {name} is called {value}.", "What is the best product of {name} called?"),
            Form("The tax number of {name} is {value}.", "What is the tax number of {name}?", number=True),
        ),
    ),
}


def draw(rng: Random, size: int, split: Split) -> list[Invention]:
    """Draw things with `size` sentences in all, the last thing with fewer; names and values differ, all of `split`.

    A larger size has the sentences of a smaller one and more, so that the text grows by one sentence.
    """
    names, numbers = distinct(split, lambda: _name(rng)), distinct(split, maker("numbers", rng))
    things = [_invent(rng, names, numbers) for _ in range(-(-size // SENTENCES))]
    facts_left = FACTS_EACH - (len(things) * SENTENCES - size)
    things[-1] = replace(things[-1], facts=things[-1].facts[:facts_left])
    rng.shuffle(things)
    return things


def text(thing: Invention) -> str:
    """Return the document about a thing."""
    kind = KINDS[thing.kind]
    sentences = [kind.forms[form].sentence.format(name=thing.name, value=value) for form, value in thing.facts]
    return " ".join([kind.opening.format(name=thing.name, year=thing.year), *sentences])


def question(thing: Invention, fact: int) -> tuple[str, str]:
    """Return the question for one of a thing's facts, and its answer."""
    form, value = thing.facts[fact]
    return KINDS[thing.kind].forms[form].question.format(name=thing.name), value


def _invent(rng: Random, names: Iterator[str], numbers: Iterator[str]) -> Invention:
    kind, name, year = rng.choice(list(KINDS)), next(names), rng.randint(1500, 1999)
    forms = rng.sample(range(FACTS_EACH), FACTS_EACH)
    facts = [(form, next(numbers if KINDS[kind].forms[form].number else names)) for form in forms]
    return Invention(kind, name, year, facts)


def _name(rng: Random) -> str:
    """Return an adjective and a noun, each with a capital letter."""
    return f"{rng.choice(word_list('adjective'))} {rng.choice(word_list('noun'))}".title()
