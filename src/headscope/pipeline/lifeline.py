"""Ends a process when the one that started it has ended, however that ended: no orphan works on.

Python's only way that holds for SIGKILL on every system is to look; once a second costs nothing.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

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
    start = started(pid)
    while start and started(pid) == start:
        time.sleep(INTERVAL)
    end()


def started(pid: int) -> str:
    """Return what is unique to a living process of this machine; an empty text if there is none."""
    try:
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            # The name, in brackets, may hold spaces. State Z: ended, and its parent has not asked yet.
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return "" if fields[0] == "Z" else f"{boot} {fields[19]}"
        words = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return words.stdout.strip()
    except (OSError, IndexError):
        return ""


def leave(status: int) -> NoReturn:
    """End this process after its exit functions: to take apart all that transformers imports would take a second."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(status)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def _end_group() -> None:
    interrupt(os.getpid())
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


def interrupt(leader: int) -> None:
    """Terminate the jobs of Snakemake's process group, and interrupt Snakemake, which cancels those of a cluster."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)  # first, or it would end the command that cancels
        os.kill(leader, signal.SIGINT)
