"""Many-shot prompts at a measured length."""

from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.sampling import Sampler


def rows(request: Request) -> list[Row]:
    """Return the rows of one task, evaluation first.

    Raises:
        AssetError: a file of shots or questions is damaged, or has fewer questions than samples are asked for.
        LengthError: the length is below the task's minimum, or all shots together do not fill it.
    """
    task = find("reasoning", request.task)
    sampler = Sampler(
        request.task, task, request.length, request.seed, request.tokenizer, request.chat_template, request.files
    )
    return [row for split in ("evaluation", "calibration") for row in sampler.rows(split, request.samples[split])]
