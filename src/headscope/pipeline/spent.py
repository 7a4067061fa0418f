"""Seconds that this process has taken since its start, imports included.

A child of the warm process counts from the start of the process whose place it took.
"""

import os
import sys
import time

from headscope.pipeline.lifeline import started


def _age() -> float:
    """Return the seconds since this process was started; elsewhere than on Linux, CPU time."""
    if sys.platform != "linux":
        return time.process_time()
    ticks = int(started(os.getpid()).split()[1])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


born = time.monotonic() - _age()
earlier_cpu_seconds = 0.0


def spent() -> dict[str, float]:
    """Return the seconds since the start, by the clock and of the processor."""
    return {"seconds": time.monotonic() - born, "cpu_seconds": time.process_time() + earlier_cpu_seconds}


def take_over(started_at: float, cpu_seconds: float) -> None:
    """Count from another process's start on the monotonic clock, and the CPU seconds that it took."""
    global born, earlier_cpu_seconds
    born, earlier_cpu_seconds = started_at, cpu_seconds
