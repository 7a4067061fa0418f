"""Progress with the time that is left: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
INTERVAL = 5.0  # seconds between two lines where there is no terminal


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield `items`, reporting on stderr how many are done and how long the rest will take."""
    return _bar(items, label) if sys.stderr.isatty() else _lines(items, label)


def clock(seconds: float) -> str:
    """Write a duration as 7 s, 3 min 05 s or 2 h 03 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _bar(items: Sequence[T], label: str) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    yield from track(items, description=label, console=Console(stderr=True))


def _lines(items: Sequence[T], label: str) -> Iterator[T]:
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= INTERVAL or done == len(items):
            left = (now - start) / done * (len(items) - done)
            print(f"{label}: {done}/{len(items)}, {clock(left)} left", file=sys.stderr, flush=True)
            last = now
