"""A request for prompts, and one prompt of any benchmark as the stages store and read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headscope.benchmarks.chat import Prompt
from headscope.benchmarks.task import Split

OFFICIAL = "official"
"""Name of the file that holds a task's finished samples."""


@dataclass(frozen=True)
class Request:
    """Which prompts of which task a benchmark makes.

    Attributes:
        task: one of the benchmark's.
        length: tokens of the longest prompt with template and answer; LongBench: of the longest text before its
            template.
        seed: of all draws.
        samples: prompts of each split.
        chat_template: whether the task's text becomes a user's turn, where the benchmark does not forbid it.
        tokenizer: the model's.
        files: the benchmark files that the task needs, by name.
        source: the official sample file to take as it is, or None to generate.
    """

    task: str
    length: int
    seed: int
    samples: Mapping[Split, int]
    chat_template: bool
    tokenizer: Any
    files: Mapping[str, Path]
    source: Path | None = None


@dataclass(frozen=True)
class Row:
    """One prompt with all that generation and scoring need.

    Attributes:
        index: counts the prompts of a split from 0.
        split: what it is for.
        prompt: the full string and the offsets of question and answer prefix.
        answer_prefix: the first words of the answer, part of the full string.
        references: what an answer is scored against.
        metric: name of a function of the benchmark's `metrics` module.
        max_new_tokens: tokens that an answer may take.
        length: tokens of the full string and of the longest answer allowed.
        min_new_tokens: tokens that an answer has at least.
        stop_text: an answer also stops at this text's last token; empty: only where the model itself stops.
        truncated: part of the benchmark's own text was left out to fit the length.
        bucket: group of samples that is reported apart; empty: all together.
        classes: what a classification chooses from.
        source: where the sample came from: drawn choices, or the benchmark's own id; plain data.
    """

    index: int
    split: Split
    prompt: Prompt
    answer_prefix: str
    references: Sequence[str]
    metric: str
    max_new_tokens: int
    length: int
    min_new_tokens: int = 0
    stop_text: str = ""
    truncated: bool = False
    bucket: str = ""
    classes: Sequence[str] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
