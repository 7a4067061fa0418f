"""Many-shot prompts at a measured length."""

from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.sampling import generated_rows


def rows(request: Request) -> list[Row]:
    """Return the rows of one task, evaluation first; raises as `generated_rows` does."""
    return generated_rows(find("reasoning", request.task), request)
