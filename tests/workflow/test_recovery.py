"""What a plan lacks is made, and what cannot be is said; tests/faults has the kinds of loss. Stages are stand-ins."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

SMALL = "experiment=smoke benchmark.ruler.tasks=[fwe] criterion=[dense,oracle,qada] figure=[roc,summary]"
RUN = [sys.executable, "-m", "headscope", "run", *SMALL.split()]
WAIT = ("import time", 'while Path("wait").exists():', "    time.sleep(0.05)")


def headscope(project, *words, code=0):
    done = subprocess.run([*RUN, *words], cwd=project.root, env=project.environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr.splitlines() if code else done.stdout.splitlines()


def gaps(project):
    """Addresses that the plan lacks, as `headscope plan` says."""
    command = [sys.executable, "-m", "headscope", "plan", *SMALL.split()]
    said = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True).stdout
    return [line.split()[1] for line in said.splitlines() if line.startswith("missing")]


def folders(project, stage):
    return sorted((project.root / "results" / stage).glob("[!.]*--*"))


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """A copy of the project that is done, and whose calibrations wait while a file `wait` exists."""
    from project import Project

    project = Project(tmp_path_factory.mktemp("waiting")).stub_stages()
    project.inject("calibration", *WAIT)
    headscope(project)
    return project


@contextmanager
def in_the_middle(project, command=RUN):
    """A run that waits in its calibrations, started as a terminal starts it."""
    earlier = unfinished(project)  # of a run that was killed
    (project.root / "wait").touch()
    for folder in folders(project, "calibration"):
        shutil.rmtree(folder)
    process = subprocess.Popen(
        command,
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not unfinished(project) - earlier and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        assert unfinished(project) - earlier
        yield process
    finally:
        (project.root / "wait").unlink()
        process.stdout.close()
        for orphan in workers(project):
            orphan.kill()
        process.wait()


def unfinished(project):
    """Calibrations that are being made, and those that were when their process was killed."""
    return {*project.root.glob("results/calibration/.*.tmp")}


def workers(project):
    """Processes that work in the project."""
    return [
        process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == os.path.realpath(project.root)
    ]


def test_a_calibration_killed_under_plain_snakemake_is_made_by_the_same_command_without_unlocking(waiting):
    """Snakemake once forced the interrupted job alone, and ended with status 0 without what follows from it."""
    for stage in ("evaluation", "figures"):
        shutil.rmtree(waiting.root / "results" / stage)
    with in_the_middle(waiting, waiting.command(SMALL)) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    waiting.run(SMALL)
    assert gaps(waiting) == []
    assert len(list((waiting.root / "results/figures/smoke").glob("*.png"))) == 2


def test_two_runs_do_not_make_the_same_results_at_the_same_time(waiting):
    with in_the_middle(waiting):
        error = headscope(waiting, code=1)[-2]
        assert error.startswith("headscope: another run is making ")
        assert f"headscope run {shlex.join(SMALL.split())}; wait for its end" in error
        assert waiting.planned(f"{SMALL} seed=7")["prompts"] == 1
    headscope(waiting)


def test_damage_is_named_by_a_dry_run_that_changes_nothing(waiting):
    file = folders(waiting, "oracle")[0] / "masses.parquet"
    content = file.read_bytes()
    file.write_bytes(b"?")
    said = waiting.run(SMALL, "-n")
    assert f"oracle/{file.parent.name}: masses.parquet has changed since it was made; it is made again" in said
    assert file.read_bytes() == b"?"
    file.write_bytes(content)
    assert waiting.planned(SMALL) == {}


def test_a_part_of_a_plan_ends_with_a_message(waiting):
    shutil.rmtree(folders(waiting, "dense")[0])
    done = subprocess.run(
        [*RUN, "--", "--until", "assets"], cwd=waiting.root, env=waiting.environment, capture_output=True, text=True
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 0
    assert "results are missing: dense/" in last and "--until assets left them out, so there is no report" in last
    headscope(waiting)


def test_a_report_that_cannot_be_made_ends_with_a_message(waiting):
    report = waiting.root / "results/figures/smoke/report.html"
    report.unlink(missing_ok=True)
    caption = waiting.root / "workflow/report/workflow.rst"
    text = caption.read_text()
    caption.write_text("{{ undefined.attribute }}")
    last = headscope(waiting, code=2)[-1]
    assert last.startswith(f"headscope: all results are made, but the report {report} is not: ")
    assert not list(report.parent.glob("*report*"))
    caption.write_text(text)
    headscope(waiting)
    assert report.is_file()


def test_the_record_of_a_run_that_was_killed_here_goes_and_that_of_another_machine_is_named(waiting):
    missing = folders(waiting, "dense")[0]
    shutil.rmtree(missing)
    records = waiting.root / "results/.runs"
    values = {"pid": 1, "started": "long ago", "since": "2026-01-01", "what": "headscope run", "format": 1}
    values["claims"] = [f"dense/{missing.name}"]
    (records / "here-1.json").write_text(json.dumps({**values, "host": socket.gethostname()}))
    (records / "far-1.json").write_text(json.dumps({**values, "host": "far"}))
    error = headscope(waiting, code=1)[-2]
    assert "process 1 on far since 2026-01-01" in error and "far-1.json" in error
    assert [file.name for file in records.iterdir()] == ["far-1.json"]
    (records / "far-1.json").unlink()
    headscope(waiting)


def test_a_file_in_the_place_of_snakemakes_folder_is_named(waiting):
    memory = waiting.root / ".snakemake"
    shutil.rmtree(memory)
    memory.touch()
    assert headscope(waiting, code=2)[-1].startswith(f"headscope: {memory} is a file")
    memory.unlink()
