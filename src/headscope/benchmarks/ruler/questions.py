"""Questions and documents of SQuAD and HotpotQA, read from their own files in file order."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from headscope.benchmarks.task import Split, split_of
from headscope.errors import AssetError

Kind = TypeVar("Kind", str, bool, list[Any])


@dataclass(frozen=True)
class Question:
    """One question; documents are given by their place in the library.

    Attributes:
        text: the question.
        answers: any of them is right.
        gold: the documents that answer it.
        always: those that every sample shows: the gold ones, and for HotpotQA its other paragraphs.
        near: those that fill a sample first: for SQuAD the other paragraphs of the article.
    """

    text: str
    answers: list[str]
    gold: Sequence[int]
    always: Sequence[int]
    near: Sequence[int]


@dataclass(frozen=True)
class Library:
    """All documents of a file, each once, and questions about them.

    Attributes:
        documents: texts.
        words: of each document, with its heading.
        questions: in file order.
    """

    documents: list[str]
    words: list[int]
    questions: list[Question]

    def of(self, split: Split) -> "Library":
        """Return the library with the questions of one split: which one, the text of their gold documents decides."""
        mine = [question for question in self.questions if self._split(question) == split]
        return Library(self.documents, self.words, mine)

    def _split(self, question: Question) -> Split:
        return split_of("\n".join(self.documents[place] for place in question.gold))


def library(documents: Iterable[str], questions: list[Question]) -> Library:
    """Return a library with its words counted; a heading "Document 1:" has two."""
    texts = list(documents)
    return Library(texts, [2 + len(text.split()) for text in texts], questions)


@cache
def squad(content: bytes) -> Library:
    """Read SQuAD 2.0, `dev-v2.0.json`: its answerable questions, and every paragraph as a document.

    Raises:
        AssetError: the content is of another form; the message names the field.
    """
    places: dict[str, int] = {}
    questions: list[Question] = []
    for at, article in _items(_load(content, "squad"), "data", "file squad"):
        paragraphs = [
            (_get(paragraph, "context", str, where), paragraph, where)
            for where, paragraph in _items(article, "paragraphs", at)
        ]
        article_places = [places.setdefault(text, len(places)) for text, _, _ in paragraphs]
        for text, paragraph, where in paragraphs:
            gold = places[text]
            near = [place for place in dict.fromkeys(article_places) if place != gold]
            asked = _items(paragraph, "qas", where)
            questions += [
                Question(_get(record, "question", str, at), _answers(record, at), [gold], [gold], near)
                for at, record in asked
                if not _get(record, "is_impossible", bool, at)
            ]
    return library(places, questions)


@cache
def hotpotqa(content: bytes) -> Library:
    """Read HotpotQA, `hotpot_dev_distractor_v1.json`: all questions, and every paragraph under its title as a document.

    Raises:
        AssetError: the content is of another form; the message names the field.
    """
    places: dict[str, int] = {}
    questions: list[Question] = []
    for at, record in _items({"records": _load(content, "hotpotqa")}, "records", "file hotpotqa"):
        titled = [_titled(paragraph, where) for where, paragraph in _items(record, "context", at)]
        titles = {places.setdefault(text, len(places)): title for title, text in titled}
        gold = [place for place, title in titles.items() if title in _telling(record)]
        answers = [_get(record, "answer", str, at)]
        questions.append(Question(_get(record, "question", str, at), answers, gold or list(titles), list(titles), []))
    return library(places, questions)


def _answers(record: dict[str, Any], where: str) -> list[str]:
    return [_get(answer, "text", str, at) for at, answer in _items(record, "answers", where)]


def _titled(paragraph: Any, where: str) -> tuple[str, str]:
    """Return a paragraph's title, and its document: the title over the sentences."""
    match paragraph:
        case [str(title), [*sentences]] if all(isinstance(sentence, str) for sentence in sentences):
            return title, f"{title}\n{''.join(sentences)}"
    raise AssetError(f"{where} is no pair of a title and its sentences; give the original file")


def _telling(record: dict[str, Any]) -> set[str]:
    """Return the titles of the paragraphs that the answer follows from, as far as the file says so."""
    facts = record.get("supporting_facts") or ()
    return {fact[0] for fact in facts if isinstance(fact, list) and fact and isinstance(fact[0], str)}


def _load(content: bytes, name: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise AssetError(f"file {name} is no JSON ({error}); give the original file") from error


def _items(node: Any, field: str, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each item of a list, after the words that say where it is."""
    for number, item in enumerate(_get(node, field, list, where)):
        yield f"{where}, {field}[{number}]", item


def _get(node: Any, field: str, kind: type[Kind], where: str) -> Kind:
    """Return a field that must be there and of a kind."""
    if not isinstance(node, dict) or field not in node:
        raise AssetError(f"{where} has no field {field!r}; give the original file")
    found = node[field]
    if not isinstance(found, kind):
        raise AssetError(
            f"{where}: field {field!r} is a {type(found).__name__}, not a {kind.__name__}; give the original file"
        )
    return found
