"""Records of what works on a results folder, one file a process: `<results>/.runs/<host>-<pid>.json`.

A run of Snakemake claims what it is going to make, so that no other makes it at the same time; a job only says that it
is there, so that nothing under its hands is deleted. The record of a process that has ended on this machine is removed
by the next reader. Nobody here can tell what goes on at another machine, so its records count until they are deleted.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from headscope.errors import ConfigError
from headscope.pipeline.lifeline import started
from headscope.pipeline.store.files import atomic_file

FOLDER = ".runs"
FORMAT = 1


@dataclass(frozen=True)
class Work:
    """A process that works on a results folder.

    Attributes:
        host: its machine.
        pid: its number there.
        started: what tells it from a later process with the same number: the machine's boot and its start.
        since: when the record was written, for people.
        what: the command of a run, or the address that a job makes.
        claims: addresses that no other run may make.
        format: version of the record.
    """

    host: str
    pid: int
    started: str
    since: str
    what: str
    claims: tuple[str, ...] = ()
    format: int = FORMAT

    def __str__(self) -> str:
        """Name the process, for an error."""
        return f"process {self.pid} on {self.host} since {self.since}: {self.what}"

    @property
    def name(self) -> str:
        """Name of the record's file."""
        return f"{self.host}-{self.pid}.json"


def working(results: Path) -> list[Work]:
    """Return what works on a results folder; remove the records of processes of this machine that have ended."""
    works = []
    for file in sorted((results / FOLDER).glob("*.json")):
        work = _read(file)
        if work.host == socket.gethostname() and work.started != started(work.pid):
            file.unlink(missing_ok=True)
        else:
            works.append(work)
    return works


@contextmanager
def at_work(results: Path, what: str, claims: Sequence[str] = ()) -> Iterator[None]:
    """Record that this process works on a results folder, as long as the block lasts.

    Raises:
        ConfigError: another run is making some of `claims`.
    """
    own = Work(socket.gethostname(), os.getpid(), started(os.getpid()), time.strftime("%F %T"), what, tuple(claims))
    _refuse(results, own, working(results))
    file = results / FOLDER / own.name
    with atomic_file(file) as path:
        path.write_text(json.dumps(asdict(own), indent=1) + "\n", encoding="utf-8")
    try:
        # Of two that started at the same moment, the first by name goes on.
        _refuse(results, own, [work for work in working(results) if work.name < own.name])
        yield
    finally:
        file.unlink(missing_ok=True)


def _refuse(results: Path, own: Work, others: Sequence[Work]) -> None:
    """Refuse to make what another run is making."""
    for other in others:
        if other.name != own.name and (shared := sorted(set(own.claims) & set(other.claims))):
            here = other.host == own.host
            gone = "" if here else f"; if that machine no longer runs it, delete {results / FOLDER / other.name}"
            raise ConfigError(
                f"another run is making {len(shared)} of the same results ({shared[0]}, ...): {other}; wait for its end"
                f" and run again{gone}"
            )


def _read(file: Path) -> Work:
    """Read a record; one that cannot be read counts as another machine's."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] == FORMAT:
            return Work(**{**values, "claims": tuple(values["claims"])})
        problem = f"has format {values['format']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__})"
    return Work("an unknown machine", 0, "", "an unknown time", f"{file} {problem}; delete it if nothing runs")
