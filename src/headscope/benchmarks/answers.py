"""Checks a line of predictions, or an exported prompt, once, and says what its answer is scored with.

The fields are those of the official scripts (RULER: pred, outputs; LongBench: pred, answers, all_classes, length;
LongBench-v2: pred, response, answer, difficulty, length) and of our own export. Values are read as what they obviously
mean or refused by file, line and field; they are only ever compared with each other, never run.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from headscope.benchmarks.jsonl import named, text_of, texts_of, whole_of
from headscope.benchmarks.longbench.subsets import BUCKETS
from headscope.benchmarks.longbench.v2 import ALLOWED
from headscope.errors import AssetError

T = TypeVar("T")
Row = Mapping[str, Any]
Key = tuple[str, str]  # a name of a prompt: ("id", ...) or ("index", ...)

ANSWERS = ("pred", "prediction")
REFERENCES = ("outputs", "answers", "references")
CLASSES = ("classes", "all_classes")
IDS = ("id", "_id")
LETTERS = ALLOWED["answer"]


@dataclass(frozen=True)
class Target:
    """The fields of a prompt that its answer is scored with.

    Attributes:
        where: file and line.
        references: at least one.
        classes: what a classification chooses from; elsewhere empty.
        buckets: groups that the answer counts in, besides all.
        identity: equal for answers to one prompt; None where the line does not tell its prompt from others.
    """

    where: str
    references: Sequence[str]
    classes: Sequence[str]
    buckets: Sequence[str]
    identity: Hashable


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt.

    Attributes:
        where: file and line.
        text: as the metric reads it.
        target: what it is scored with.
    """

    where: str
    text: str
    target: Target


def read_answer(row: Row, task: Any, where: str, prompts: Mapping[Key, Target]) -> Answer:
    """Check a line of predictions.

    Args:
        row: the line.
        task: of the benchmark's registry.
        where: file and line, for messages.
        prompts: exported prompts by each of their names; empty: the line holds its own references.

    Raises:
        AssetError: a field is missing or wrong, or no exported prompt is the line's.
    """
    return Answer(where, _answer(row, task, where), _joined(row, task, where, prompts) or read_target(row, task, where))


def read_target(row: Row, task: Any, where: str) -> Target:
    """Check the fields of a line that its answer is scored with; arguments and errors as in `read_answer`."""
    references = _references(row, task, where)
    if references is None:
        raise _missing(row, REFERENCES, where, "; give the exported prompts (--prompts FOLDER)")
    classes = _classes(row, references, where) if task.metric == "classification" else []
    names = keys_of(row, where)
    identity: Hashable = next(iter(names), None)
    if names and names[0][0] == "index":
        # RULER's index is not unique: for needle tasks it is a place in the text.
        text = row.get("input")
        identity = names[0], text if isinstance(text, str) else "", tuple(references)
    return Target(where, references, classes, _buckets(row, task, where), identity)


def keys_of(row: Row, where: str) -> list[Key]:
    """Return the names of a line's prompt: its ids, then its index."""
    ids = [("id", text_of(row[name], f"{where}: field {name!r}")) for name in IDS if row.get(name) is not None]
    if row.get("index") is not None:
        return [*ids, ("index", str(whole_of(row["index"], f"{where}: field 'index'")))]
    return ids


def _answer(row: Row, task: Any, where: str) -> str:
    text = _agreed(row, ANSWERS, text_of, where)
    if task.metric == "choice":
        text = _choice(row, text, where)
    if text is None:
        raise _missing(row, ANSWERS, where)
    return text


def _choice(row: Row, text: str | None, where: str) -> str | None:
    """Return an answer to a question of LongBench-v2 as its metric reads it.

    The official script writes the model's text as `response` and the letter read out of it, or null, as `pred`.
    """
    if text is None:
        return "" if "pred" in row else _agreed(row, ("response",), text_of, where)
    if text.strip() not in LETTERS:
        return text
    if not {"response", "judge", "answer"} & row.keys():
        raise AssetError(
            f"{where}: field 'pred' is {text!r}, a letter alone: write the model's whole text, or add it as 'response'"
            " if this is the letter read out of it"
        )
    return f"The correct answer is ({text.strip()})"


def _references(row: Row, task: Any, where: str) -> list[str] | None:
    def read(value: Any, place: str) -> list[str]:
        """Return references that the task's metric can compare with an answer."""
        references = texts_of(value, place)
        for reference in references:
            if task.metric == "choice" and reference not in LETTERS:
                raise AssetError(f"{place} is {reference!r:.40}, not {' or '.join(LETTERS)}; repair it")
            if task.metric == "count" and not reference.isdecimal():
                raise AssetError(f"{place} is {reference!r:.40}, not a whole number; repair it")
            if task.metric.startswith("string_match") and not reference.strip():
                raise AssetError(f"{place} holds an empty text, which every answer matches; leave it out")
        return references

    return _agreed(row, (*REFERENCES, "answer") if task.metric == "choice" else REFERENCES, read, where)


def _classes(row: Row, references: Sequence[str], where: str) -> list[str]:
    classes = _agreed({name: row.get(name) or None for name in CLASSES}, CLASSES, texts_of, where)
    if classes is None:
        raise AssetError(f"{where}: field 'all_classes' is missing or empty; give the classes to choose from")
    if wrong := [name for name in classes if not name.strip() or classes.count(name) > 1]:
        raise AssetError(f"{where}: field 'all_classes' names {wrong[0]!r:.40} twice or no class by it; name each once")
    if not set(classes) & set(references):
        raise AssetError(
            f"{where}: no reference is one of the {len(classes)} classes, so that no answer could be right; give "
            "'all_classes' as a list"
        )
    return classes


def _buckets(row: Row, task: Any, where: str) -> list[str]:
    """Return the groups of an answer: LongBench-E's by length, LongBench-v2's by length and difficulty."""
    if task.metric == "choice":
        length = _allowed(row, "bucket", ALLOWED["length"], where) or _allowed(row, "length", ALLOWED["length"], where)
        source = row.get("source")  # of an export
        fields = {**(source if isinstance(source, dict) else {}), **row}
        return [*filter(None, (length, _allowed(fields, "difficulty", ALLOWED["difficulty"], where)))]
    if not getattr(task, "extended", False):
        return []
    bucket = _allowed(row, "bucket", BUCKETS, where)
    return [bucket or task.bucket_of(whole_of(row.get("length"), f"{where}: field 'length'"))]


def _allowed(row: Row, name: str, allowed: Sequence[str], where: str) -> str:
    text = _agreed(row, (name,), text_of, where) or ""
    if text and text not in allowed:
        raise AssetError(f"{where}: field {name!r} is {text!r:.40}, not {' or '.join(allowed)}; repair it")
    return text


def _joined(row: Row, task: Any, where: str, prompts: Mapping[Key, Target]) -> Target | None:
    """Return the exported prompt that all names of a line belong to; None without exported prompts."""
    if not prompts:
        return None
    names = keys_of(row, where)
    if not names:
        raise _missing(row, (*IDS, "index"), where)
    targets = [prompts.get(name) for name in names]
    target = targets[0]
    if target is None or any(other is not target for other in targets):
        texts = " and ".join(f"{name} {value!r}" for name, value in names)
        raise AssetError(f"{where}: no exported prompt has {texts}; give the prompts that were answered")
    references = _references(row, task, where)
    if references is not None and references != target.references:
        raise AssetError(
            f"{where}: the references are not those of {target.where}; give the prompts that were answered"
        )
    return target


def _agreed(row: Row, names: Sequence[str], read: Callable[[Any, str], T], where: str) -> T | None:
    """Return the value of fields that mean the same; None if all are missing or null."""
    values = {name: read(row[name], f"{where}: field {name!r}") for name in names if row.get(name) is not None}
    first = next(iter(values), "")
    for name, value in values.items():
        if value != values[first]:
            raise AssetError(f"{where}: fields {first!r} and {name!r} differ; keep the right one alone")
    return values.get(first)


def _missing(row: Row, names: Sequence[str], where: str, remedy: str = "") -> AssetError:
    for name in names:
        if name in row:
            return AssetError(f"{where}: field {name!r} is null; write its value (an empty answer is an empty text)")
    return AssetError(f"{where} has none of {', '.join(names)}; it has {named(row)}{remedy}")
