"""The loop of the warm process: it forks a child for each request.

It ends when its standard input has ended, because `headscope run` has, and its children have.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from multiprocessing.connection import wait
from typing import NamedTuple

from headscope.pipeline import spent
from headscope.pipeline.warm.imports import State, state
from headscope.pipeline.warm.place import take_place
from headscope.pipeline.warm.request import Request, receive

PATIENCE = 10.0  # seconds for a client that is connected to say what it wants


class Job(NamedTuple):
    """A child at work.

    Attributes:
        pid: its number.
        process: a descriptor of it, which can be read when it has ended.
        client: the connection to the process whose place it took, which can be read when that has ended.
    """

    pid: int
    process: int
    client: socket.socket

    def report(self) -> None:
        """Tell the client how the child has ended."""
        _, status = os.waitpid(self.pid, 0)
        with suppress(OSError):
            self.client.send(str(os.waitstatus_to_exitcode(status)).encode())

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.process)
        self.client.close()


class Server:
    """Forks children for those who connect, if they are in the state in which this process imported."""

    def __init__(self, listener: socket.socket, before: State):
        self.listener, self.before = listener, before
        self.jobs: list[Job] = []
        self.ready, self.cpu_seconds = time.monotonic(), time.process_time()  # of the imports

    def serve(self) -> list[str] | None:
        """Fork until standard input ends; return the words of its command in a child, and None at the end here."""
        sources: list[int | socket.socket] = [sys.stdin.fileno(), self.listener]
        while sources or self.jobs:
            events = wait([*sources, *(job.process for job in self.jobs), *(job.client for job in self.jobs)])
            for job in [*self.jobs]:
                if job.process in events:
                    job.report()
                    job.close()
                    self.jobs.remove(job)
                elif job.client in events:
                    signal.pidfd_send_signal(job.process, signal.SIGKILL)
            if sys.stdin.fileno() in events:
                sources.clear()
                self.listener.close()
            elif self.listener in events and (words := self._answer(self.listener.accept()[0])):
                return words
        return None

    def _answer(self, client: socket.socket) -> list[str] | None:
        """Fork a child for a client, or hang up; return the words of its command in the child."""
        client.settimeout(PATIENCE)
        heard = receive(client)
        if heard is None:
            client.close()
            return None
        request, streams = heard
        pid = self._fork(request)
        if pid == 0:
            self._close()
            take_place(self._counted(request), streams, client)
            return request.words
        for stream in streams:
            os.close(stream)
        if pid is None:
            client.close()
            return None
        self.jobs.append(Job(pid, os.pidfd_open(pid), client))
        self.cpu_seconds, self.ready = 0.0, spent.born  # counted
        return None

    def _fork(self, request: Request) -> int | None:
        """Fork if the client is in the same state; return the child's number, 0 in the child, None without one."""
        if state(request.session, request.folder, request.environment) != self.before:
            return None
        try:
            return os.fork()
        except OSError:  # no memory, or too many processes
            return None

    def _counted(self, request: Request) -> Request:
        """Add the imports' seconds to a request, but those in which its process waited for them."""
        seconds = min(self.ready, request.born) - spent.born
        return request._replace(born=request.born - seconds, cpu_seconds=request.cpu_seconds + self.cpu_seconds)

    def _close(self) -> None:
        """Close what belongs to the parent of this process."""
        self.listener.close()
        for job in self.jobs:
            job.close()
