"""Small stand-ins for the benchmark files that tasks need, by name, in the form of the real ones."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from itertools import count, islice, product
from pathlib import Path
from random import Random
from typing import Any

from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request
from headscope.benchmarks.sampling import Sampler


def temporary(prefix: str) -> Path:
    """A folder that is gone behind the tests."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def files() -> dict[str, Path]:
    folder = temporary("headscope-files-")
    contents = {
        "prose": packaged_prose(),
        "essays": packaged_prose(),
        "squad": json.dumps(squad()),
        "hotpotqa": json.dumps(hotpotqa()),
        "english_words": json.dumps(english_words()),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in contents}


def ruler_sampler(
    name: str, length: int, seed: int, tokenizer: Any, chat_template: bool, paths: dict[str, Path] | None = None
) -> Sampler:
    request = Request(name, length, seed, {}, chat_template, tokenizer, files() if paths is None else paths)
    return Sampler(find("ruler", name), request)


def squad(articles: int = 12, paragraphs: int = 10) -> dict[str, Any]:
    """A dev-v2.0.json: each paragraph with an answerable question and one that has no answer."""
    texts = enumerate(passages(12, 100))

    def paragraph() -> dict[str, Any]:
        number, text = next(texts)
        words = text.split()
        answers = [{"text": " ".join(words[-n:]), "answer_start": 0} for n in (3, 4)]
        return {
            "context": text,
            "qas": [
                {"question": f"What ends passage {number}, {words[0]}?", "answers": answers, "is_impossible": False},
                {"question": "What is missing?", "answers": [], "is_impossible": True},
            ],
        }

    named = [{"title": f"a{a}", "paragraphs": [paragraph() for _ in range(paragraphs)]} for a in range(articles)]
    return {"version": "v2.0", "data": named}


def hotpotqa(records: int = 60) -> list[dict[str, Any]]:
    """A hotpot_dev_distractor_v1.json: ten titled paragraphs each, some of them shared, two of them telling."""
    texts = passages(12, 40)
    titled = [[f"Topic {n}", [f"{part} " for part in sentences(next(texts))]] for n in range(5 * records + 10)]
    lines = []
    for number in range(records):
        context = titled[5 * number : 5 * number + 10]
        lines.append(
            {
                "question": f"What begins {context[2][0]} after {context[3][0]}?",
                "answer": " ".join(context[2][1][0].split()[:4]),
                "context": context,
                "supporting_facts": [[context[2][0], 0], [context[3][0], 0]],
            }
        )
    return lines


def english_words(size: int = 40_000) -> dict[str, str]:
    """An english_words.json: made-up words, a few of them also wonderwords'."""
    syllables = ("ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "zu", "an", "er", "il", "on", "us")
    invented = ("".join(parts) for parts in product(syllables, repeat=4))
    return {str(i): word for i, word in zip(count(), ["apple", "quick", *islice(invented, size)], strict=False)}


def passages(least: int, most: int) -> Iterator[str]:
    """Pieces of the packaged prose of `least` to about `most` words, sentence by sentence, without end."""
    rng = Random("passages")
    while True:
        piece: list[str] = []
        goal = rng.randint(least, most)
        for sentence in rng.sample(sentences(packaged_prose()), 400):
            piece.append(sentence)
            if len(" ".join(piece).split()) >= goal:
                yield " ".join(piece)
                piece, goal = [], rng.randint(least, most)
