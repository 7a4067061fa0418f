"""LongBench's prompts: its own texts, truncated in the middle before any chat template."""

from headscope.benchmarks.chat import assemble
from headscope.benchmarks.encoding import count_tokens
from headscope.benchmarks.longbench.example import Example, LongTask
from headscope.benchmarks.longbench.truncation import Limit
from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.task import Rendering, Split
from headscope.errors import LengthError


def rows(request: Request) -> list[Row]:
    """Return the rows of one task, evaluation first.

    Raises:
        LengthError: fewer than two tokens are allowed.
        AssetError: a benchmark file is missing or damaged, or lacks what the task needs.
        ConfigError: a split that the request wants has no row, or there is no chat template to use.
    """
    task: LongTask = find("longbench", request.task)
    if request.length < 2:
        raise LengthError("a truncated text keeps at least 2 tokens", needs=2)
    limit = Limit(request.length, task.halves_apart, request.tokenizer)
    return [
        _row(example, index, split, task, limit, request.chat_template and task.chat)
        for split, examples in task.examples(request).items()
        for index, example in enumerate(examples)
    ]


def _row(example: Example, index: int, split: Split, task: LongTask, limit: Limit, chat_template: bool) -> Row:
    cut = limit.cut(example.text, example.question_offset)
    context, question = cut.text[: cut.question_offset], cut.text[cut.question_offset :]
    prompt = assemble(Rendering(context, question, "", list(example.references)), limit.tokenizer, chat_template)
    return Row(
        index=index,
        split=split,
        prompt=prompt,
        answer_prefix="",
        references=example.references,
        metric=task.metric,
        max_new_tokens=task.max_new_tokens,
        length=count_tokens(limit.tokenizer, prompt.text) + task.max_new_tokens,
        min_new_tokens=task.min_new_tokens,
        stop_text=task.stop_text,
        truncated=cut.truncated,
        bucket=example.bucket,
        classes=example.classes,
        source=example.source,
    )
