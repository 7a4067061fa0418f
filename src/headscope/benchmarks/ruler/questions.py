"""Questions and documents of SQuAD and HotpotQA, read from their own files in file order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeVar

from headscope.benchmarks.jsonl import parse_json, refuse_half_characters
from headscope.benchmarks.task import Split, split_of
from headscope.errors import AssetError

Kind = TypeVar("Kind", str, bool, list[Any])


@dataclass(frozen=True)
class Question:
    """One question; numbers are places of documents in the library.

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
        questions: in file order.
    """

    documents: list[str]
    questions: list[Question]

    @cached_property
    def words(self) -> list[int]:
        """Words of each document, with its heading: "Document 1:" has two."""
        return [2 + len(text.split()) for text in self.documents]

    def of(self, split: Split) -> "Library":
        """Return the library with the questions of one split; the text of their gold documents decides which one."""
        return Library(self.documents, [question for question in self.questions if self._split(question) == split])

    def _split(self, question: Question) -> Split:
        return split_of("\n".join(self.documents[place] for place in question.gold))


@cache
def squad(content: bytes) -> Library:
    """Read SQuAD 2.0, `dev-v2.0.json`: its answerable questions, and every paragraph as a document.

    Raises:
        AssetError: the content is of another form; the message names the field.
    """
    places: dict[str, int] = {}
    questions: list[Question] = []
    for at, article in _items(parse_json(content, "file squad"), "data", "file squad"):
        paragraphs = [
            (_get(paragraph, "context", str, where), paragraph, where)
            for where, paragraph in _items(article, "paragraphs", at)
        ]
        article_places = [places.setdefault(text, len(places)) for text, _, _ in paragraphs]
        for text, paragraph, where in paragraphs:
            gold = places[text]
            near = [place for place in dict.fromkeys(article_places) if place != gold]
            questions += [
                Question(_get(record, "question", str, at), _answers(record, at), [gold], [gold], near)
                for at, record in _items(paragraph, "qas", where)
                if not _get(record, "is_impossible", bool, at)
            ]
    return Library(list(places), questions)


@cache
def hotpotqa(content: bytes) -> Library:
    """Read HotpotQA, `hotpot_dev_distractor_v1.json`: all questions, and every paragraph under its title as a document.

    Raises:
        AssetError: the content is of another form; the message names the field.
    """
    places: dict[str, int] = {}
    questions: list[Question] = []
    for at, record in _items({"records": parse_json(content, "file hotpotqa")}, "records", "file hotpotqa"):
        titled = [_titled(paragraph, where) for where, paragraph in _items(record, "context", at)]
        titles = {places.setdefault(text, len(places)): title for title, text in titled}
        gold = [place for place, title in titles.items() if title in _gold_titles(record)]
        answers = [_get(record, "answer", str, at)]
        if not answers[0].strip():
            raise AssetError(f"{at}: field 'answer' is empty; give the original file")
        questions.append(Question(_get(record, "question", str, at), answers, gold or list(titles), list(titles), []))
    return Library(list(places), questions)


def _answers(record: dict[str, Any], where: str) -> list[str]:
    """Return the right answers; an empty one would occur in any text."""
    answers = [_get(answer, "text", str, at) for at, answer in _items(record, "answers", where)]
    if not answers or not all(map(str.strip, answers)):
        raise AssetError(f"{where}: field 'answers' is empty or holds an empty text; give the original file")
    return answers


def _titled(paragraph: Any, where: str) -> tuple[str, str]:
    """Return a paragraph's title, and its document: the title over the sentences."""
    match paragraph:
        case [str(title), [*sentences]] if all(isinstance(sentence, str) for sentence in sentences):
            refuse_half_characters(paragraph, where)
            return title, f"{title}\n{''.join(sentences)}"
    raise AssetError(f"{where} is no pair of a title and its sentences; give the original file")


def _gold_titles(record: dict[str, Any]) -> set[str]:
    """Return the titles of the paragraphs that the answer follows from, as far as the file says so."""
    facts = record.get("supporting_facts") or ()
    return {fact[0] for fact in facts if isinstance(fact, list) and fact and isinstance(fact[0], str)}


def _items(node: Any, field: str, where: str) -> Iterator[tuple[str, Any]]:
    """Yield each item of a list, after the words that say where it is."""
    for number, item in enumerate(_get(node, field, list, where)):
        yield f"{where}, {field}[{number}]", item


def _get(node: Any, field: str, kind: type[Kind], where: str) -> Kind:
    """Return a field that must be there and of a kind."""
    if not isinstance(node, dict) or field not in node:
        raise AssetError(f"{where} has no field {field!r}; give the original file")
    value = node[field]
    if not isinstance(value, kind):
        raise AssetError(
            f"{where}: field {field!r} is a {type(value).__name__}, not a {kind.__name__}; give the original file"
        )
    if isinstance(value, str):
        refuse_half_characters(value, f"{where}: field {field!r}")
    return value
