"""What a process says to the warm process, so that a child of that takes its place."""

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple

from headscope.pipeline import spent

LARGEST = 1 << 22  # bytes of a message; a larger one cannot be sent
PERSONAL = ("PWD", "OLDPWD", "SHLVL", "_", "PS1")
"""Variables that shells change. Like ours (`HEADSCOPE_...`), they may differ between jobs: no import reads them."""


class Request(NamedTuple):
    """A process whose place a child of the warm process shall take.

    Attributes:
        words: its arguments.
        pid: its number.
        group: its process group.
        session: its session.
        folder: its working folder.
        environment: its variables.
        ignored: signals that it ignores.
        born: when it was started, on the monotonic clock.
        cpu_seconds: what it has taken so far.
    """

    words: list[str]
    pid: int
    group: int
    session: int
    folder: str
    environment: dict[str, str]
    ignored: list[int]
    born: float
    cpu_seconds: float

    def send(self, connection: socket.socket) -> None:
        """Send this with the three standard streams."""
        socket.send_fds(connection, [json.dumps(self).encode()], [0, 1, 2])


def of_this_process(words: list[str]) -> Request:
    """Return what this process would say."""
    ignored = [int(number) for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
    ids = os.getpid(), os.getpgrp(), os.getsid(0)
    return Request(words, *ids, os.getcwd(), dict(os.environ), ignored, spent.born, time.process_time())


def receive(connection: socket.socket) -> tuple[Request, list[int]] | None:
    """Return what a client says, and its standard streams; None if it says nothing that can be understood."""
    streams: list[int] = []
    try:
        message, streams, *_ = socket.recv_fds(connection, LARGEST, 3)
        if len(streams) == 3:
            return Request(*json.loads(message)), streams
    except (OSError, ValueError, TypeError):
        pass
    for stream in streams:
        os.close(stream)
    return None


def is_personal(name: str) -> bool:
    """Return True if a variable of the environment may differ between jobs of one run."""
    return name in PERSONAL or name.startswith("HEADSCOPE_")


def shared(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an import may read."""
    return {name: value for name, value in environment.items() if not is_personal(name)}
