"""RULER's prompts: generated at a measured length, or official samples as they are."""

from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.ruler import official
from headscope.benchmarks.sampling import Sampler


def rows(request: Request) -> list[Row]:
    """Return the rows of one task, evaluation first.

    Raises:
        AssetError: a file of the task is damaged, or has too few samples or questions.
        LengthError: the length is below the task's minimum, or below an official sample's.
    """
    if request.source:
        return official.rows(request, request.source)
    task = find("ruler", request.task)
    sampler = Sampler(
        request.task, task, request.length, request.seed, request.tokenizer, request.chat_template, request.files
    )
    return [row for split in ("evaluation", "calibration") for row in sampler.rows(split, request.samples[split])]
