"""How a child of the warm process takes the place of the process that asked for it."""

import os
import signal
import socket
import sys
from collections.abc import Sequence

from headscope.pipeline import spent
from headscope.pipeline.lifeline import end_with
from headscope.pipeline.warm.request import Request, is_personal


def take_place(request: Request, streams: Sequence[int], client: socket.socket) -> None:
    """Become like the process that asked, which is told of this one first: whoever is left can end it.

    Raises:
        OSError: that process or its group has ended.
    """
    process = os.pidfd_open(os.getpid())
    socket.send_fds(client, [b"forked"], [process])
    os.close(process)
    client.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setpgid(0, request.group)
    _set_variables(request.environment)
    _reset_signals(request.ignored)
    sys.argv[1:] = request.words
    spent.take_over(request.born, request.cpu_seconds)
    end_with(request.pid)


def _set_variables(environment: dict[str, str]) -> None:
    """Set the variables that may differ; the others are the same, but for those that an import has set."""
    for name in filter(is_personal, [*os.environ]):
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if is_personal(name)})
    os.environ.pop("HEADSCOPE_WARM", None)  # or this process would hand over in turn, for ever


def _reset_signals(ignored: Sequence[int]) -> None:
    """Ignore what the process that asked ignores; do with other signals what a new Python does."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in ignored else handler)
