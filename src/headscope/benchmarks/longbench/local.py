"""Two tasks of LongBench's form that need no download: texts from the standard library, templates of our own.

They run all of LongBench's code: filling a template, truncation (a text fills most of its limit and is not cut), the
rule for chat templates, and the metrics. Their scores are not LongBench's.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from headscope.benchmarks.longbench import completion, passages
from headscope.benchmarks.longbench.data import Record, example_of
from headscope.benchmarks.longbench.example import Example, LongTask
from headscope.benchmarks.longbench.library import read_library, standard_library
from headscope.benchmarks.longbench.template import Template, format_style
from headscope.benchmarks.row import Request
from headscope.benchmarks.task import SPLITS, Split

__all__ = ["TASKS", "LocalTask", "standard_library"]

# Of a split's sources, a seed, a measure in tokens of (context, input), and a limit: context, input and answer.
Draws = Callable[[Sequence[str], str, Callable[[str, str], int], int], Iterator[tuple[str, str, str]]]


@dataclass(frozen=True)
class LocalTask(LongTask):
    """A task whose rows are drawn from the standard library.

    Attributes:
        name: the task's.
        metric: name of the metric.
        max_new_tokens: tokens that an answer may take.
        template: with `context` and, after it, `input`, where the question starts.
        draws: yields context, input and answer of one row after the other.
        stop_text: an answer also stops at this text's last token.
    """

    name: str
    metric: str
    max_new_tokens: int
    template: Template
    draws: Draws
    stop_text: str = ""

    chat = False  # both continue a text, as LongBench's code and few-shot tasks do

    def needs(self, length: int) -> list[str]:
        """The sources."""
        return ["standard_library"]

    def examples(self, request: Request) -> dict[Split, list[Example]]:
        """Return the examples of each split, of different modules; errors as in the base class.

        Raises:
            LengthError: the length is too short for the task, or longer than the library.
        """
        return {split: [self._example(record) for record in self.records(request, split)] for split in SPLITS}

    def records(self, request: Request, split: Split) -> list[Record]:
        """Draw the rows of a split, as many as the request wants."""
        if not request.samples[split]:
            return []

        def tokens(context: str, question: str) -> int:
            text, _ = self.template.fill({"context": context, "input": question})
            return len(request.tokenizer(text, verbose=False).input_ids)

        sources = list(read_library(request.files["standard_library"], split).values())
        draws = self.draws(sources, f"{request.seed}/{split}/{self.name}", tokens, request.length)
        return [_record(*draw) for draw in islice(draws, request.samples[split])]

    def _example(self, record: Record) -> Example:
        return example_of(record, self.template, "input")


def _record(context: str, question: str, answer: str) -> Record:
    name = hashlib.sha256(f"{context}\n{question}".encode()).hexdigest()[:48]
    return Record(name, question, context, [answer], len(context.split()), [])


def _template(text: str) -> Template:
    return format_style(text, {"context", "input"}, "a template of local.py")


CODE = "Complete the Python code below.\n\n{context}{input}"
PASSAGES = (
    "Below are numbered paragraphs from the documentation of Python, and then sentences out of them.\n\n"
    + "{context}\n\n"
    + passages.EXAMPLE.format("{input}", "").rstrip()
)

TASKS = {
    "lcc_local": LocalTask("lcc_local", "code_sim", 64, _template(CODE), completion.draws),
    "passage_retrieval_local": LocalTask(
        "passage_retrieval_local", "retrieval", 32, _template(PASSAGES), passages.draws, stop_text="\n\n"
    ),
}
