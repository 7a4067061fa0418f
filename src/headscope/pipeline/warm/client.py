"""Lets the warm process run a batch, and ends as that ended.

It imports little, so that it starts in hundredths of a second.
"""

import os
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from headscope.pipeline.warm.request import of_this_process


def hand_over(address: str, words: list[str]) -> int | None:
    """Let a child of the warm process do what `words` say; return its exit status.

    Signals go on to the child. If a signal ends the child, it ends this process too.

    Returns:
        None if this process is to do it: there is no warm process, it refuses, or it has ended. Its child has ended
        then, too, and a batch goes on where that ended.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(address)
            of_this_process(words).send(connection)
            _, [child], *_ = socket.recv_fds(connection, 16, 1)
        except (OSError, ValueError):  # nobody listens, or refuses
            return None
        with _passing_on_signals(child) as numbers:
            status = _status(connection)
            if status is None:
                _end(child)
        os.close(child)
    if status is None and numbers:
        return 128 + numbers[0]
    if status is not None and status < 0:
        with suppress(OSError):  # SIGKILL cannot be caught anyway
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


@contextmanager
def _passing_on_signals(child: int) -> Iterator[list[int]]:
    """Pass on what asks this process to end; yield the numbers of the signals that have come."""
    numbers: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        numbers.append(number)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    caught = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in caught:
        signal.signal(number, pass_on)
    try:
        yield numbers
    finally:
        for number, handler in caught.items():
            signal.signal(number, handler)


def _status(connection: socket.socket) -> int | None:
    """Wait for the child's exit status; below 0 it is a signal's number. None if the warm process has ended."""
    with suppress(OSError):
        if message := connection.recv(16):
            return int(message)
    return None


def _end(child: int) -> None:
    """End a child by force, and wait until it has ended."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(child, signal.SIGKILL)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.poll()
