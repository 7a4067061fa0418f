"""Reads the random choices out of official RULER samples: the inverse of rendering, written independently of it."""

import json
import os
import re
from pathlib import Path

import pytest

from headscope.benchmarks.ruler.cwe import ANSWER_PREFIX, CommonChoices, WordList
from headscope.benchmarks.ruler.fwe import FrequencyChoices
from headscope.benchmarks.ruler.haystack import NOISE
from headscope.benchmarks.ruler.niah import DEPTHS, NeedleChoices
from headscope.benchmarks.ruler.qa import QuestionChoices
from headscope.benchmarks.ruler.questions import Library, Question
from headscope.benchmarks.ruler.vt import Chain, TrackingChoices

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "conformance" / "ruler_official"
FOLDER = Path(os.environ.get("HEADSCOPE_RULER_OFFICIAL", DEFAULT))

NEEDLE = re.compile(r"One of the special magic \w+ for (.+?) is: (\S+)\.")
PREFIX = re.compile(r" The special magic \w+ for (.+) mentioned in the provided text (?:is|are)")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def official(name: str) -> list[dict]:
    """The official samples of a task; skips the test where there are none."""
    path = FOLDER / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no official samples at {path}; set HEADSCOPE_RULER_OFFICIAL to their folder")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_needles(sample: dict, haystack: str) -> tuple[NeedleChoices, str]:
    """Choices of a needle sample, and the prose around its needles."""
    _, _, rest = sample["input"].partition("\n")
    context, _, _ = rest.rpartition("\n")
    keys = re.split(r", and |, ", PREFIX.fullmatch(sample["answer_prefix"])[1])
    each = len(sample["outputs"]) // len(keys)
    queries = [(key, sample["outputs"][i * each : (i + 1) * each]) for i, key in enumerate(keys)]
    if haystack == "essay":
        return _read_prose(context, queries)
    lines = context.split("\n")
    if haystack == "noise":
        numbers = [i for i, line in enumerate(lines) if line != NOISE]
    else:
        numbers = [i for i, line in enumerate(lines) if NEEDLE.fullmatch(line)[1] in keys]
    pairs = [NEEDLE.fullmatch(line).groups() if NEEDLE.fullmatch(line) else None for line in lines]
    others = [pair for i, pair in enumerate(pairs) if i not in numbers and pair]
    places = [line - i for i, line in enumerate(numbers)]
    return NeedleChoices(len(lines) - len(numbers), [pairs[i] for i in numbers], places, queries, others), ""


def _read_prose(context: str, queries: list) -> tuple[NeedleChoices, str]:
    needles = [match.groups() for match in NEEDLE.finditer(context)]
    parts = [part.strip(" ") for part in NEEDLE.sub("\0", context).split("\0")]
    counts = [len(SENTENCE_END.split(part)) if part else 0 for part in parts]
    depths: list[int] = []
    for before in (sum(counts[: i + 1]) for i in range(len(needles))):
        depths.append(next(d for d in DEPTHS if int(sum(counts) * (d / 100)) == before and d not in depths))
    prose = " ".join(filter(None, parts))
    return NeedleChoices(len(prose.split(" ")), needles, depths, queries, []), prose


def read_tracking(sample: dict) -> TrackingChoices:
    """Choices of a variable-tracking sample: worked example and chain."""
    _, example, chain = re.split(r"(?=Memorize and track)", sample["input"])
    return TrackingChoices(_read_chain(chain), _read_chain(example))


def _read_chain(text: str) -> Chain:
    lines = text.split("\n\n")[1].split("\nQuestion: ")[0].split("\n")
    numbers = [i for i, line in enumerate(lines) if line.startswith("VAR ")]
    variables = [lines[i].split()[1] for i in numbers]
    value = lines[numbers[0]].split()[-1]
    return Chain(len(lines) - len(numbers), value, variables, [line - i for i, line in enumerate(numbers)])


def read_frequencies(sample: dict) -> FrequencyChoices:
    """Choices of a frequent-words sample: the words by rank, answers first, and their order."""
    text = sample["input"].split("\nQuestion: ")[0].split("coded words. ")[1].split(" ")
    words = list(dict.fromkeys(["...", *sample["outputs"], *text]))
    ranks = {word: rank for rank, word in enumerate(words)}
    return FrequencyChoices(words, [ranks[word] for word in text])


def read_common(sample: dict) -> CommonChoices:
    """Choices of a common-words sample: worked example and list."""
    _, example, numbered = re.split(r"(?=Below is a numbered)", sample["input"])
    solution = _read_numbers(example.split(ANSWER_PREFIX)[1].strip())
    return CommonChoices(_read_list(numbered, sample["outputs"]), _read_list(example, solution))


def _read_list(text: str, answers: list[str]) -> WordList:
    numbered = _read_numbers(text.split("\n")[1])
    words = list(dict.fromkeys([*answers, *numbered]))
    places = {word: place for place, word in enumerate(words)}
    return WordList(words, [places[word] for word in numbered])


def _read_numbers(text: str) -> list[str]:
    return _read_pieces(text, "{}. ", " ")


def _read_pieces(text: str, heading: str, between: str) -> list[str]:
    """What stands after heading 1, heading 2 and so on; a piece may itself hold spaces, new lines or other numbers."""
    pieces, number, start = [], 1, len(heading.format(1))
    assert text.startswith(heading.format(1))
    while start >= 0:
        number += 1
        following = between + heading.format(number)
        end = text.find(following, start)
        pieces.append(text[start : end if end >= 0 else None])
        start = end + len(following) if end >= 0 else -1
    return pieces


def read_documents(sample: dict) -> tuple[QuestionChoices, Library]:
    """Choices of a question-answering sample, and a library of nothing but its documents."""
    body, _, question = sample["input"].rpartition("Question: ")
    body = body.split("\n\nThe following are given documents.\n\n", 1)[1].rpartition("\n\nAnswer the question")[0]
    documents = _read_pieces(body, "Document {}:\n", "\n\n")
    ours = Question(question, sample["outputs"], gold=[], always=[], near=[])
    return QuestionChoices(0, list(range(len(documents)))), Library(documents, [ours])
