"""Faults: each loses, damages or disturbs something of a project as crashes, people and machines do.

A fault is a function of a project and a random generator that returns what it did, in words. Some end a command while
it works; `words` of the recovery are those of docs/troubleshooting.md.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from projects import Small, processes

DAY = 86400
Fault = Callable[[Small, Random], str]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: in words.
        fault: does it.
        recovery: "run": the same command again; "verify": `headscope verify --delete` first, for what only the hash of
            every file shows; "unknown": `headscope verify` names a file to take away; "refused": a refusal that names
            a file to delete, then the same command.
        cells: it needs cells, which stand-ins do not write.
    """

    name: str
    fault: Fault
    recovery: str = "run"
    cells: bool = False


def _unfinish(project: Small, random: Random) -> str:
    """Take away what follows from a stage, so that the next run has work to do."""
    stages = ["figures", "evaluation", "calibration", "oracle", "dense", "prompts"]
    lost = stages[: random.randint(1, len(stages))]
    for stage in lost:
        shutil.rmtree(project.results / stage, ignore_errors=True)
    if random.random() < 0.5:
        shutil.rmtree(project.results / "cells", ignore_errors=True)
    return f"without {lost[-1]} and what follows"


def _killed(whom: str, how: signal.Signals) -> Fault:
    def fault(project: Small, random: Random) -> str:
        lost = _unfinish(project, random)
        process = project.start()
        seconds = random.uniform(0.3, project.seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        _signal(project, process, whom, how)
        project.wait_for_the_end(process)
        return f"{lost}, after {seconds:.1f} s"

    return fault


def _signal(project: Small, process: "subprocess.Popen[bytes]", whom: str, how: signal.Signals) -> None:
    """Send a signal to the command, to Snakemake, to a job, or to all at once as a power cut does."""
    running = [each for each in processes(project.root) if "bash -c" not in each.words]
    jobs = ["-m headscope batch ", "-m headscope figures "]
    marks = {"command": ["-m headscope run"], "snakemake": ["-m snakemake --config"], "job": jobs, "all": [""]}
    chosen = [each for each in running if any(mark in each.words for mark in marks[whom])]
    for each in chosen if whom == "all" else chosen[:1]:
        with suppress(ProcessLookupError):
            os.kill(each.pid, how)


def _nodes(project: Small) -> list[Path]:
    return sorted(path for path in project.results.glob("*/[!.]*--*") if path.is_dir())


def _file(project: Small, random: Random, folder: Path | None = None) -> Path:
    """Choose a file of a result."""
    folder = folder or random.choice(_nodes(project))
    return random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _name(project: Small, path: Path) -> str:
    return str(path.relative_to(project.results))


def lost_folder(project: Small, random: Random) -> str:
    folder = random.choice(_nodes(project))
    shutil.rmtree(folder)
    return _name(project, folder)


def lost_file(project: Small, random: Random) -> str:
    file = _file(project, random)
    file.unlink()
    return _name(project, file)


def truncated(project: Small, random: Random) -> str:
    file = _file(project, random)
    os.truncate(file, random.randrange(max(1, file.stat().st_size)))
    return _name(project, file)


def _flip(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def flipped(project: Small, random: Random) -> str:
    file = _file(project, random)
    while not file.stat().st_size:
        file = _file(project, random)
    _flip(file, random)
    return _name(project, file)


def rotten(project: Small, random: Random) -> str:
    """Flip a bit as a disk does: size and time stay."""
    file = _file(project, random)
    while not file.stat().st_size:
        file = _file(project, random)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    _flip(file, random)
    os.utime(file, ns=times)
    return _name(project, file)


def damaged_cell(project: Small, random: Random) -> str:
    """Damage a cell, and lose what was made of it."""
    cells = sorted(path for path in (project.results / "cells").rglob("*") if path.is_file())
    file = random.choice(cells)
    if random.random() < 0.5:
        os.truncate(file, file.stat().st_size // 2)
    else:
        _flip(file, random)
    for stage in {"oracle", "evaluation", file.relative_to(project.results / "cells").parts[0]}:
        shutil.rmtree(project.results / stage)
    return _name(project, file)


def foreign_file(project: Small, random: Random) -> str:
    folder = random.choice(_nodes(project))
    (folder / "notes.txt").write_text("mine")
    return _name(project, folder)


def swapped(project: Small, random: Random) -> str:
    """Swap a file of two results."""
    names = {}
    for file in project.results.glob("*/[!.]*--*/*"):
        names.setdefault((file.parent.parent.name, file.name), []).append(file)
    pairs = [sorted(files) for files in names.values() if len(files) > 1 and files[0].is_file()]
    first, second = random.choice(pairs)[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    return f"{_name(project, first)} and {_name(project, second)}"


def replaced(project: Small, random: Random) -> str:
    """Put one result into the place of another of its stage."""
    stages = {}
    for folder in _nodes(project):
        stages.setdefault(folder.parent.name, []).append(folder)
    first, second = random.choice([folders for folders in stages.values() if len(folders) > 1])[:2]
    shutil.rmtree(first)
    shutil.copytree(second, first)
    return f"{_name(project, second)} as {_name(project, first)}"


def copies(project: Small, random: Random) -> str:
    """Lose, change or exchange a plain-named figure."""
    files = sorted(path for path in (project.results / "figures/smoke").iterdir() if path.suffix != ".html")
    file = random.choice(files)
    file.unlink() if random.random() < 0.5 else file.write_bytes(b"?")
    return _name(project, file)


def memory(project: Small, random: Random) -> str:
    """Lose or garble what Snakemake remembers, and lose a result."""
    folder = project.root / ".snakemake"
    how = random.choice(["deleted", "garbled", "emptied"])
    for file in [path for path in folder.rglob("*") if path.is_file()] if how != "deleted" else []:
        file.write_bytes(b"" if how == "emptied" else random.randbytes(20))
    if how == "deleted":
        shutil.rmtree(folder, ignore_errors=True)
    return f"{how}; {lost_folder(project, random)}"


def clock(project: Small, random: Random) -> str:
    """Move the times of some files by up to a year; lose a result."""
    days = random.uniform(-365, 365)
    for file in project.results.rglob("*"):
        if file.is_file() and random.random() < 0.3:
            at = file.stat().st_mtime + days * DAY
            os.utime(file, (at, at))
    return f"by {days:.0f} days; {lost_folder(project, random)}"


def moved(project: Small, random: Random) -> str:
    """Copy the results as `cp -r` does, without their times; lose a result."""
    shutil.move(project.results, project.root / "old")
    shutil.copytree(project.root / "old", project.results, copy_function=shutil.copyfile)
    shutil.rmtree(project.root / "old")
    return lost_folder(project, random)


def cache(project: Small, random: Random) -> str:
    """Damage the cache of compositions; lose a result."""
    files = sorted((project.root / "results/.cache/compose").glob("*.json"))
    for file in files:
        os.truncate(file, random.randrange(file.stat().st_size))
    return f"{len(files)} files; {lost_folder(project, random)}"


def provenance(project: Small, random: Random) -> str:
    """Garble a provenance, or give it a format of the future."""
    file = random.choice(_nodes(project)) / "provenance.json"
    text = file.read_text()
    file.write_text(random.choice(["", "{", "[]", text.replace('"format": 1', '"format": 99'), text[: len(text) // 2]]))
    return _name(project, file)


def dead_record(project: Small, random: Random) -> str:
    """Leave the record of a run that was killed, on this machine."""
    project.record(random, host=None)
    return lost_folder(project, random)


def foreign_record(project: Small, random: Random) -> str:
    """Leave the record of a run on another machine, which claims what is missing."""
    _unfinish(project, random)
    project.record(random, host="another-machine")
    return "of another machine"


def full_disk(project: Small, random: Random) -> str:
    """Let a run end because files cannot grow beyond a few kilobytes."""
    lost = _unfinish(project, random)
    limit = random.choice([0, 1, 4, 16, 64, 256])
    process = project.start(prefix=f"export PYTHONDONTWRITEBYTECODE=1; ulimit -f {limit}; ")
    project.wait_for_the_end(process)
    return f"{limit} KiB a file, {lost}"


def two_runs(project: Small, random: Random) -> str:
    """Start the same command twice."""
    lost = _unfinish(project, random)
    first = project.start()
    time.sleep(random.uniform(0, 3))
    second = project.start()
    project.wait_for_the_end(first, orphans=False)
    project.wait_for_the_end(second)
    return lost


def leftovers(project: Small, random: Random) -> str:
    """Leave the hidden folder of a job that was killed, and lose its result."""
    folder = random.choice(_nodes(project))
    shutil.copytree(folder, folder.with_name(f".{folder.name}.0123abcd.tmp"))
    shutil.rmtree(folder)
    return _name(project, folder)


KINDS = (
    Kind("command killed", _killed("command", signal.SIGKILL)),
    Kind("command terminated", _killed("command", signal.SIGTERM)),
    Kind("command interrupted", _killed("command", signal.SIGINT)),
    Kind("Snakemake killed", _killed("snakemake", signal.SIGKILL)),
    Kind("job killed", _killed("job", signal.SIGKILL)),
    Kind("job terminated", _killed("job", signal.SIGTERM)),
    Kind("all killed at once", _killed("all", signal.SIGKILL)),
    Kind("result deleted", lost_folder),
    Kind("file deleted", lost_file),
    Kind("file truncated", truncated),
    Kind("bit flipped", flipped),
    Kind("bit flipped, time kept", rotten, "verify"),
    Kind("cell damaged", damaged_cell, cells=True),
    Kind("file added", foreign_file, "unknown"),
    Kind("files swapped", swapped),
    Kind("result replaced by another", replaced),
    Kind("plain-named figure lost or changed", copies),
    Kind("Snakemake's folder lost or garbled", memory),
    Kind("clock jumped", clock),
    Kind("results copied without times", moved),
    Kind("cache of compositions truncated", cache),
    Kind("provenance garbled", provenance),
    Kind("record of a dead run", dead_record),
    Kind("record of another machine's run", foreign_record, "refused"),
    Kind("disk full", full_disk),
    Kind("two runs at once", two_runs),
    Kind("leftovers of a killed job", leftovers),
)
