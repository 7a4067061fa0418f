"""Ends a process when the one that started it has ended, however that ended: no orphan works on.

Python's only way that holds for SIGKILL on every system is to look; once a second costs nothing.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

INTERVAL = 1.0  # seconds between two looks
GRACE = 20.0  # seconds to put things away


def end_with(pid: int, group: bool = False) -> None:
    """End this process when process `pid` has ended: first by a signal that lets it put things away, then by force.

    Args:
        pid: the process to follow.
        group: end the whole process group, which this process leads.
    """
    if group:  # started in the background of a shell, it would ignore interruptions
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_follow, args=(pid, _end_group if group else _end), daemon=True).start()


def _follow(pid: int, end: Callable[[], None]) -> None:
    while _lives(pid):
        time.sleep(INTERVAL)
    end()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _end_group() -> None:
    interrupt(os.getpid())
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def interrupt(leader: int) -> None:
    """Interrupt Snakemake, which then cancels what it has submitted, and terminate the jobs of its process group."""
    with suppress(ProcessLookupError):
        os.kill(leader, signal.SIGINT)
        os.killpg(leader, signal.SIGTERM)
