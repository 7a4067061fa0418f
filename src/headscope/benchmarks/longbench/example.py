"""Tasks of LongBench's form: questions as whole texts, before truncation and chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from headscope.benchmarks.row import Request
from headscope.benchmarks.task import Split


@dataclass(frozen=True)
class Example:
    """One question with its context.

    Attributes:
        text: the filled template.
        question_offset: where the question starts in `text`, in characters; never at its end.
        references: what an answer is scored against, the best counts.
        bucket: group that is reported apart; empty: all together.
        classes: what a classification chooses from: this example's own.
        source: where it came from; plain data.
    """

    text: str
    question_offset: int
    references: Sequence[str]
    bucket: str = ""
    classes: Sequence[str] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


class LongTask:
    """A task whose texts may be longer than the model's limit and then lose their middle.

    Attributes:
        metric: name of the metric.
        max_new_tokens: tokens that an answer may take.
        min_new_tokens: tokens that an answer has at least.
        stop_text: an answer also stops at this text's last token; empty: only where the model itself stops.
        halves_apart: the two ends of a truncated text are equal in tokens and decoded apart (see `truncation`).
    """

    metric: str
    max_new_tokens: int
    min_new_tokens: int = 0
    stop_text: str = ""
    halves_apart: bool = True

    @property
    def chat(self) -> bool:
        """Whether the benchmark lets a chat template stand around the text."""
        return True

    def needs(self, length: int) -> list[str]:
        """Name the benchmark files that `examples` reads for texts of `length` tokens."""
        raise NotImplementedError

    def examples(self, request: Request) -> dict[Split, list[Example]]:
        """Return the examples of each split, evaluation first.

        Raises:
            AssetError: a benchmark file is missing or damaged, or lacks what the task needs.
            ConfigError: a split that the request wants has no example.
        """
        raise NotImplementedError
