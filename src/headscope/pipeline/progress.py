"""Progress on stderr, with the time that is left: a line every few seconds."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
INTERVAL = 5.0  # seconds between two lines


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield `items`; report how many are done and how long the others will take."""
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= INTERVAL or done == len(items):
            left = (now - start) / done * (len(items) - done)
            print(f"{label}: {done}/{len(items)}, {clock(left)} left", file=sys.stderr, flush=True)
            last = now


def clock(seconds: float) -> str:
    """Write a duration as 7 s, 3 min 05 s or 2 h 03 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
