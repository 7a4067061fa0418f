"""Snakemake as a child process: its command, its progress, its errors, and its end."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT

from headscope.pipeline.lifeline import interrupt
from headscope.pipeline.progress import clock
from headscope.pipeline.warm.start import warm_process

STEPS = re.compile(r"^(\d+) of (\d+) steps \(\d+%\) done")
GRACE = 60  # seconds in which Snakemake ends its jobs, and cancels those of a cluster


def snakemake(overrides: Sequence[str], passed: Sequence[str]) -> list[str]:
    """Return the command of Snakemake on an experiment, by the interpreter that runs this."""
    # Snakemake reads a value as YAML, where `: ` makes a mapping and ` #` a comment, and strips quotation marks from
    # its ends. An empty word, in spaces, is no YAML in front of others: they arrive as they are.
    words = f" '' {shlex.join(overrides)} " if overrides else ""
    return [sys.executable, "-m", "snakemake", "--config", f"hydra={words}", *passed]


def run(command: Sequence[str], root: Path, warm: bool = False) -> int:
    """Run Snakemake to its end; print after each job the time that is left, and at the end the errors again.

    With `warm`, a process beside it has imported what jobs need.
    """
    start, errors = time.monotonic(), []
    with warm_process(root) if warm else nullcontext("") as address, _started(command, root, address) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            if line.startswith("headscope: ") and "warning" not in line:
                errors.append(line)
            if steps := STEPS.match(line):
                done, total, seconds = int(steps[1]), int(steps[2]), time.monotonic() - start
                left = clock(seconds / done * (total - done))
                eta = f"headscope: {done} of {total} jobs in {clock(seconds)}, about {left} left"
                print(eta, file=sys.stderr, flush=True)
    if process.returncode:  # again, below Snakemake's long words
        print("".join(dict.fromkeys(errors)), end="", file=sys.stderr)
    return process.returncode


@contextmanager
def _started(command: Sequence[str], root: Path, warm: str) -> Iterator[subprocess.Popen[str]]:
    """Run Snakemake in a process group of its own, which ends with this process, however that ends."""
    environment = {**os.environ, "HEADSCOPE_RUN": str(os.getpid()), "HEADSCOPE_WARM": warm}
    options = {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT, "text": True, "errors": "replace", "bufsize": 1}
    process = subprocess.Popen(command, cwd=root, env=environment, process_group=0, **options)  # type: ignore[call-overload]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            _end(process)
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupt Snakemake and its jobs; after a while, or a second interruption, end them by force."""
    interrupt(process.pid)
    try:
        process.communicate(timeout=GRACE)  # its last words: it would wait for a reader
    except (KeyboardInterrupt, SystemExit, subprocess.TimeoutExpired):
        pass
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
