"""LongBench-v2 (arXiv 2412.15204): 503 questions of four choices, 8k to 2M words.

The official run replaces its placeholders one after the other, so a document that holds "$Q$" gets the question there;
here all are replaced in one pass and a document stays as it is. It samples at temperature 0.1; answers here are greedy.
It scores no empty answer; here one counts as wrong.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.benchmarks.jsonl import parse_json, parse_jsonl, require
from headscope.benchmarks.longbench.example import Example, LongTask
from headscope.benchmarks.longbench.splits import choose
from headscope.benchmarks.longbench.template import Template, dollar_style
from headscope.benchmarks.row import Request
from headscope.benchmarks.task import Split
from headscope.errors import AssetError

# Each placeholder of the prompt file, and the field that takes its place.
VALUES = {
    "DOC": "context",
    "Q": "question",
    "C_A": "choice_A",
    "C_B": "choice_B",
    "C_C": "choice_C",
    "C_D": "choice_D",
}
FIELDS = ("_id", "domain", "sub_domain", "difficulty", "length", "answer", *VALUES.values())
ALLOWED = {"difficulty": ("easy", "hard"), "length": ("short", "medium", "long"), "answer": ("A", "B", "C", "D")}


@dataclass(frozen=True)
class MultipleChoice(LongTask):
    """The whole benchmark as one task.

    Scores are reported by class of length; an example's source has its difficulty too, for the official table of easy,
    hard, short, medium and long.

    Attributes:
        samples: rows of the official file.
    """

    metric = "choice"
    samples = 503
    max_new_tokens = 128
    halves_apart = False

    def needs(self, length: int) -> list[str]:
        """Questions with their documents, and the prompt."""
        return ["longbench_v2_data", "longbench_v2_prompt"]

    def examples(self, request: Request) -> dict[Split, list[Example]]:
        """Return the examples of each split, in the file's order; errors as in the base class."""
        template = read_template(request.files["longbench_v2_prompt"])
        questions = read_questions(request.files["longbench_v2_data"])
        splits = choose([question["_id"] for question in questions], request)
        return {split: [_example(questions[i], template) for i in indices] for split, indices in splits.items()}


def read_template(path: Path) -> Template:
    """Return the official zero-shot prompt, 0shot.txt.

    Raises:
        AssetError: the file is missing or no text, or its placeholders are not the official ones.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; give LongBench-v2's 0shot.txt")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AssetError(f"{path} is no UTF-8 ({error}); give LongBench-v2's 0shot.txt") from error
    return dollar_style(text, set(VALUES), str(path))


def read_questions(path: Path) -> list[dict[str, str]]:
    """Return the questions of data.json, one list, or of a file of one object a line.

    Raises:
        AssetError: the file is missing or damaged, or a question lacks a field; the message says which.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; give LongBench-v2's data.json")
    content = path.read_bytes()
    one_list = content[:80].lstrip().startswith(b"[")
    questions = parse_json(content, str(path)) if one_list else parse_jsonl(content.splitlines(), str(path)).values()
    return [_checked(question, f"{path}, question {number}") for number, question in enumerate(questions, start=1)]


def _checked(question: Any, where: str) -> dict[str, str]:
    if not isinstance(question, dict):
        raise AssetError(f"{where} is a {type(question).__name__}, not a JSON object; fetch the file again")
    require(question, dict.fromkeys(FIELDS, str), where)
    for name, allowed in ALLOWED.items():
        if question[name] not in allowed:
            raise AssetError(
                f"{where}: field {name!r} is {question[name]!r:.40}, not {' or '.join(allowed)}; fetch the file again"
            )
    return question


def _example(question: dict[str, str], template: Template) -> Example:
    text, offset = template.fill({name: question[field].strip() for name, field in VALUES.items()}, "Q")
    source = {name: question[name] for name in ("_id", "domain", "sub_domain", "difficulty", "length")}
    return Example(text, offset, [question["answer"]], question["length"], source=source)


TASKS = {"v2": MultipleChoice()}
