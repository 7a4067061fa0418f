"""Branches of a CUDA graph: small kernels that are recorded side by side run at once, one after the other alone."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch

BRANCHES = 8
"""At most; with more, a GPU gains nothing and cuBLAS keeps a workspace for each."""

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do tasks of which none needs what another makes; return their results.

    While a graph is recorded they are branches of it. What they share must exist before, and something else than the
    tasks must hold it until they are done: made by the first that asks for it, it would not be there in time for the
    others, and memory that one of them frees is given to the next. A task within a task is no branch of its own.
    """
    if len(tasks) < 2 or not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [task() for task in tasks]
    here = torch.cuda.current_stream()
    streams = _streams(here.device)
    if here in streams:
        return [task() for task in tasks]
    streams = streams[: len(tasks)]
    for stream in streams:
        stream.wait_stream(here)
    results = []
    for number, task in enumerate(tasks):
        with torch.cuda.stream(streams[number % len(streams)]):
            results.append(task())
    for stream in streams:
        here.wait_stream(stream)
    return results


@cache
def _streams(device: torch.device) -> list[torch.cuda.Stream]:
    """Return a GPU's branches: the stream that records has none of the work between fork and join."""
    return [torch.cuda.Stream(device) for _ in range(BRANCHES)]  # type: ignore[no-untyped-call]
