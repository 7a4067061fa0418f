"""`headscope warm <descriptor>`: the process beside Snakemake that forks jobs; `headscope run` starts it.

The process ends when its standard input does.
"""

import argparse
import os
import shutil
import signal
import socket
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from headscope.pipeline.warm.imports import can_fork, import_all, state
from headscope.pipeline.warm.server import Server


def main(arguments: Sequence[str]) -> int:
    """Import what jobs need and fork a child for each; in a child, run its batch."""
    parser = argparse.ArgumentParser(prog="headscope warm", description=__doc__)
    parser.add_argument("descriptor", type=int, help="of a listening socket")
    descriptor = parser.parse_args(arguments).descriptor
    before = state(os.getsid(0), os.getcwd(), os.environ)
    os.close(os.pidfd_open(os.getpid()))  # an old system has none, and no warm process
    import_all()
    if not can_fork():
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as listener:
        folder = Path(listener.getsockname()).parent
        if words := Server(listener, before).serve():
            return int(import_module("headscope.pipeline.commands.batch").main(words[1:]))
    shutil.rmtree(folder, ignore_errors=True)
    return 0
