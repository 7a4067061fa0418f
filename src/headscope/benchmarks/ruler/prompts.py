"""RULER's prompts: generated at a measured length, or official samples as they are."""

from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.ruler import official
from headscope.benchmarks.sampling import generated_rows


def rows(request: Request) -> list[Row]:
    """Return the rows of one task, evaluation first; raises as `generated_rows` and `official.rows` do."""
    if request.source:
        return official.rows(request, request.source)
    return generated_rows(find("ruler", request.task), request)
