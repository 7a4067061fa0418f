"""Branches of a CUDA graph: small kernels that are recorded side by side run at once, one after the other alone."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

import torch

Result = TypeVar("Result")


def side_by_side(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Do tasks of which none needs what another makes; return their results.

    While a graph is recorded, each is a branch of it. What they share must exist before: made by the first that asks
    for it, it would not be there in time for the others.
    """
    if len(tasks) < 2 or not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()):
        return [task() for task in tasks]
    here = torch.cuda.current_stream()
    streams = [here, *(_branch(here, number) for number in range(1, len(tasks)))]
    for stream in streams[1:]:
        stream.wait_stream(here)
    results = []
    for stream, task in zip(streams, tasks, strict=True):
        with torch.cuda.stream(stream):
            results.append(task())
    for stream in streams[1:]:
        here.wait_stream(stream)
    return results


@cache
def _branch(stream: torch.cuda.Stream, number: int) -> torch.cuda.Stream:
    """Return the same stream each time, since memory that a stream freed serves its next branches alone."""
    return torch.cuda.Stream(stream.device)  # type: ignore[no-untyped-call]
