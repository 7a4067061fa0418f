"""A small experiment in a copy of the project, to be disturbed and to recover."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))

from project import Project

OPTIONS = ["experiment=smoke", "benchmark.ruler.tasks=[fwe]", "criterion=[dense,oracle,qada]"]
OPTIONS += ["figure=[roc,score_tasks]"]
TABLES = ("rows.parquet", "answers.parquet", "masses.parquet", "calibration.json", "roc.csv", "score_tasks.csv")
LIMIT = 240  # seconds for one command


class Process(NamedTuple):
    """A process that works in a project."""

    pid: int
    words: str


def processes(root: Path) -> list[Process]:
    """Return the processes whose working folder is a project's, zombies excluded."""
    working = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd") == str(root):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                working += [Process(int(entry.name), words)] if words else []
        except OSError:
            continue
    return sorted(working)


class Small:
    """A copy of the project with the small experiment.

    Attributes:
        root: its folder.
        results: its results.
        seconds: about how long a run of all takes.
    """

    def __init__(self, root: Path, stand_ins: bool, finished: "Small | None" = None):
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.project = Project(self.root)
        if stand_ins:
            self.project.stub_stages()
        self.results, self.seconds = self.root / "results", 0.0
        if finished is not None:
            for name in ("results", ".snakemake"):
                shutil.copytree(finished.root / name, self.root / name, dirs_exist_ok=True)
            self.seconds = finished.seconds
        else:
            start = time.monotonic()
            code, said = self.run("run")
            assert code == 0, said
            self.seconds = time.monotonic() - start

    def start(self, prefix: str = "") -> "subprocess.Popen[bytes]":
        """Start the experiment as a terminal would."""
        words = " ".join(f"'{word}'" for word in [sys.executable, "-m", "headscope", "run", *OPTIONS])
        with (self.root / "said.log").open("ab") as log:
            return subprocess.Popen(
                ["bash", "-c", f"{prefix}exec {words} -- -c1"],
                cwd=self.root,
                env=self.project.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_for_the_end(self, process: "subprocess.Popen[bytes]", orphans: bool = True) -> None:
        """Wait for a command and, with `orphans`, for all that works in the project: nothing outlives it."""
        process.wait(LIMIT)
        deadline = time.monotonic() + 60
        while orphans and processes(self.root):
            assert time.monotonic() < deadline, f"orphans: {processes(self.root)}"
            time.sleep(0.05)

    def run(self, command: str, *flags: str) -> tuple[int, str]:
        """Run a command of headscope on the experiment; return its status and what it said."""
        words = [sys.executable, "-m", "headscope", command, *flags, *OPTIONS]
        words += ["--", "-c1"] if command == "run" else []
        done = subprocess.run(
            words, cwd=self.root, env=self.project.environment, capture_output=True, text=True, timeout=LIMIT
        )
        return done.returncode, done.stdout + done.stderr

    def record(self, random: Random, host: str | None) -> None:
        """Leave the record of a run that claims everything."""
        import socket

        folder = self.results / ".runs"
        folder.mkdir(exist_ok=True)
        _, planned = self.run("plan")
        claims = [line.split()[1] for line in planned.splitlines() if "--" in line]
        record = {"host": host or socket.gethostname(), "pid": random.randrange(2, 9999), "started": "before"}
        record |= {"since": "2026-01-01 00:00:00", "what": "headscope run", "claims": claims, "format": 1}
        (folder / f"record-{record['pid']}.json").write_text(json.dumps(record))

    def tables(self) -> dict[str, bytes]:
        """Return the final tables, times excluded."""
        return {
            str(file.relative_to(self.results)): file.read_bytes()
            for file in sorted(self.results.glob("*/[!.]*--*/*"))
            if file.name in TABLES
        }


def recover(project: Small, recovery: str, expected: dict[str, bytes]) -> str:
    """Recover as docs/troubleshooting.md says; return "equal", or what is wrong.

    A command that ends with status 0 while something is missing is the worst of all ends.
    """
    if recovery == "verify":
        code, said = project.run("verify")
        if code != 1:
            return f"verify ends with status {code}: {said[-300:]}"
        code, said = project.run("verify", "--delete")
        if "Traceback" in said:
            return f"verify --delete: {said[-300:]}"
    if recovery == "unknown":
        code, said = project.run("verify")
        if code != 1 or "notes.txt" not in said:
            return f"verify ends with status {code}: {said[-300:]}"
        for file in project.results.rglob("notes.txt"):
            file.unlink()
    if recovery == "refused":
        code, said = project.run("run")
        if code == 0 or "another-machine" not in said or "delete " not in said:
            return f"not refused: {said[-300:]}"
        for record in (project.results / ".runs").glob("record-*.json"):
            record.unlink()
    code, said = project.run("run")
    if code:
        return f"status {code}: {said[-400:]}"
    if "Traceback" in said:
        return f"traceback: {said[-400:]}"
    code, said = project.run("verify")
    if code:
        return f"status 0, and verify says {said[-400:]}"
    if project.tables() != expected:
        names = {name for name in {*expected, *project.tables()} if project.tables().get(name) != expected.get(name)}
        return f"other tables: {sorted(names)}"
    return "equal"
