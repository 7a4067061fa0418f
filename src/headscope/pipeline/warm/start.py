"""Starts the warm process beside Snakemake, and ends it."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE

GRACE = 60  # seconds in which jobs end
THREADS = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")


@contextmanager
def warm_process(root: Path) -> Iterator[str]:
    """Start the warm process; yield the address of its socket, or an empty text where there can be none.

    Linux alone: macOS does not allow a fork after some of the imports.
    """
    with ExitStack() as stack:
        address = ""
        with suppress(OSError):  # of a path that is too long, or where nothing can be written
            address = stack.enter_context(_process(root)) if sys.platform == "linux" else ""
        yield address


@contextmanager
def _process(root: Path) -> Iterator[str]:
    """Start the warm process; yield its address and end it.

    Raises:
        OSError: it cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="headscope-warm-", ignore_cleanup_errors=True) as folder:
        address = f"{folder}/socket"
        process = _started(address, root)
        try:
            yield address
        finally:
            _end(process)


def _started(address: str, root: Path) -> subprocess.Popen[bytes]:
    # Its own process group: an interruption is not for it, and its children take the group of those they work for.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(1024)
        number = listener.fileno()
        command = [sys.executable, "-m", "headscope", "warm", str(number)]
        options = {"stdin": PIPE, "stdout": DEVNULL, "stderr": DEVNULL, "pass_fds": [number], "process_group": 0}
        return subprocess.Popen(command, cwd=root, env=_environment(), **options)  # type: ignore[call-overload,no-any-return]


def _environment() -> dict[str, str]:
    """Return the environment that Snakemake, and the rules of this workflow, give a job with one thread."""
    threads = {f"{name}_THREADS": "1" for name in THREADS}
    temporary = dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), tempfile.gettempdir())
    return {**os.environ, **threads, **temporary, "OMP_WAIT_POLICY": "passive"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the warm process end after its jobs; it is gone at once if it still imports."""
    assert process.stdin is not None
    process.stdin.close()
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        process.kill()
        process.wait()
