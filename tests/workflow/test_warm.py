"""The warm process: a child of it takes the place of a job's process, and nobody can tell. Stages are stand-ins."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from project import Project

from headscope.pipeline import lifeline
from headscope.pipeline.warm import imports, request, server, start

SERVER = "headscope\0warm"
ASK = "import json, os, signal, sys, threading, time; from headscope.errors import AssetError"
WAIT = '(out / "half").touch(); time.sleep(60)'


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose assets do what the code in their slice says."""
    project = Project(tmp_path_factory.mktemp("warm")).stub_stages()
    project.inject("assets", ASK, 'exec(spec["code"], {**globals(), **locals()})')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project.root / "src"))
        yield project


@pytest.fixture
def address(project):
    project.environment = start._environment()  # pytest changes a variable when a test begins
    with start.warm_process(project.root) as address:
        yield address


class Job:
    """A batch of one job that does what `code` says, as Snakemake starts it."""

    def __init__(self, project, address, code, **variables):
        self.out = project.root / "results/assets" / f"job{time.monotonic_ns()}"
        self.file = project.root / "job.json"
        job = {"stage": "assets", "spec": {"kind": "data", "code": code}, "out": str(self.out), "parents": []}
        self.file.write_text(json.dumps([job]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headscope", "batch", str(self.file)],
            cwd=project.root,
            env={**project.environment, "HEADSCOPE_WARM": address, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in a shell's background ignore it
        )

    def end(self):
        said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def wait_until_it_works(self):
        """Return the process that does the job."""
        wait_for(lambda: self.half_written())
        others = [process for process in psutil.process_iter() if group_of(process) == self.process.pid]
        return next(
            (process for process in others if process.pid != self.process.pid), psutil.Process(self.process.pid)
        )

    def half_written(self):
        return [*self.out.parent.glob(f".{self.out.name}.*/half")]


def group_of(process):
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def servers(project):
    """The warm processes of a project; a child has the same words, and follows in the list of processes."""
    own = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if SERVER in "\0".join(process.cmdline()) and process.cwd() == os.path.realpath(project.root):
                own += [process] if process.ppid() not in {other.pid for other in own} else []
    return own


LOOK = """
import resource
handlers = {number: str(signal.getsignal(number)).partition(" at ")[0] for number in signal.valid_signals()}
handlers |= {number: str(getattr(signal.getsignal(number), "__qualname__", 0)) for number in (2, 15)}
files = [os.readlink(f"/proc/self/fd/{n}").partition(":")[0] for n in os.listdir("/proc/self/fd") if n < "3"]
state = {"words": sys.argv[1:], "handlers": handlers, "files": files, "folder": os.getcwd(), "path": sys.path}
state |= {"environment": dict(os.environ), "session": os.getsid(0), "open": len(os.listdir("/proc/self/fd"))}
state |= {"limits": [resource.getrlimit(n) for n in range(10)], "mask": sorted(signal.pthread_sigmask(0, []))}
state |= {"streams": [sys.stdout.line_buffering, sys.stderr.line_buffering]}
print(json.dumps({**state, "group": os.getpgrp(), "line": open("/proc/self/cmdline").read()}))
"""


def look(project, address):
    """What a job finds that was started with a socket's address."""
    job = Job(project, address, LOOK, HEADSCOPE_PARENT=str(os.getpid()))
    status, said = job.end()
    assert status == 0, said
    found = json.loads(said)
    assert found.pop("group") == job.process.pid
    return found


def test_a_job_finds_what_it_would_find_in_a_process_of_its_own(project, address):
    warm, alone = (look(project, each) for each in (address, ""))
    assert SERVER in warm.pop("line") and SERVER not in alone.pop("line")
    assert alone["environment"].pop("HEADSCOPE_WARM") == ""
    assert warm == alone


def test_a_job_that_fails_says_why_and_ends_with_its_status(project, address):
    job = Job(project, address, 'raise AssetError("no such thing; do x")')
    assert job.end() == (1, "headscope: no such thing; do x\n")
    assert not job.out.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_ends_a_job_which_puts_its_things_away(project, address, number, to_all):
    job = Job(project, address, WAIT)
    process = job.wait_until_it_works()
    (os.killpg if to_all else os.kill)(job.process.pid, number)
    assert job.end()[0] == 128 + number
    assert is_gone(process)
    assert not job.half_written() or (to_all and number == signal.SIGINT)  # the second of two may break it off


def test_a_job_that_is_killed_ends_its_client_by_the_same_signal(project, address):
    job = Job(project, address, WAIT)
    job.wait_until_it_works().kill()
    assert job.end()[0] == -signal.SIGKILL


def test_a_client_that_is_killed_takes_its_job_along_and_no_other(project, address):
    other, job = Job(project, address, WAIT.replace("60", "3")), None
    other.wait_until_it_works()
    job = Job(project, address, f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}")
    process = job.wait_until_it_works()
    job.process.kill()
    wait_for(lambda: is_gone(process), lifeline.GRACE / 2)  # at once, and not by its own lifeline
    assert other.end()[0] == 0 and other.out.is_dir()


def test_without_its_warm_process_a_job_is_done_again_in_a_process_of_its_own(project, address):
    code = f'(out / "half").touch(); time.sleep({SERVER!r} in open("/proc/self/cmdline").read() and 60)'
    job = Job(project, address, code)
    process = job.wait_until_it_works()
    for each in servers(project):
        each.kill()
    assert job.end()[0] == 0 and job.out.is_dir() and is_gone(process)
    assert Job(project, address, "pass").end()[0] == 0


def test_a_job_with_other_variables_or_newer_code_runs_in_a_process_of_its_own(project, address):
    code = f'assert {SERVER!r} not in open("/proc/self/cmdline").read()'
    assert Job(project, address, code).end()[0] == 1  # it can fail
    assert Job(project, address, code, OMP_NUM_THREADS="2").end()[0] == 0
    file = project.root / "src/headscope/errors.py"
    file.write_text(file.read_text() + "\n")
    assert Job(project, address, code).end()[0] == 0


def test_the_warm_process_ends_when_the_run_is_killed_and_leaves_nothing(project):
    project.environment = start._environment()
    words = """
from headscope.pipeline.warm.start import *
with warm_process(Path.cwd()) as address:
    print(address, flush=True)
    input()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    run = subprocess.Popen([sys.executable, "-c", words], cwd=project.root, env=project.environment, **pipes)
    address = run.stdout.readline().strip()
    assert Path(address).parent.stat().st_mode & 0o777 == 0o700
    job = Job(project, address, WAIT.replace("60", "2"))
    job.wait_until_it_works()
    run.kill()
    run.communicate()
    assert job.end()[0] == 0  # jobs follow Snakemake
    wait_for(lambda: not servers(project))
    assert not Path(address).parent.exists()


def test_a_run_gives_its_jobs_to_the_warm_process(project):
    project.inject("prompts", f'assert {SERVER!r} in open("/proc/self/cmdline").read()')
    command = [sys.executable, "-m", "headscope", "run", "experiment=smoke", "figure=[roc]", "--", "--until", "prompts"]
    environment = {name: value for name, value in project.environment.items() if not name.endswith("_THREADS")}
    project.inject("assets", "return (out / 'manifest.json').write_text('{}')")
    done = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["missing", "long" * 30])
def test_a_run_goes_without_a_warm_process_where_its_socket_cannot_be(tmp_path, monkeypatch, folder):
    (tmp_path / ("long" * 30)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    with start.warm_process(tmp_path) as address:
        assert address == ""


def test_a_client_is_refused_where_no_process_can_be_forked(monkeypatch):
    def full():
        raise BlockingIOError

    asked = request.of_this_process(["batch"])
    forking = server.Server(None, imports.state(asked.session, asked.folder, asked.environment))
    monkeypatch.setattr(os, "fork", lambda: 7)
    assert forking._fork(asked) == 7
    monkeypatch.setattr(os, "fork", full)
    assert forking._fork(asked) is None


def test_the_imports_seconds_are_those_of_the_first_job_but_while_it_waited_for_them(monkeypatch):
    monkeypatch.setattr(server.spent, "born", 100.0)
    asked = request.Request([], 1, 1, 1, "", {}, [], 102.0, 0.25)
    forking = server.Server(None, None)
    forking.ready, forking.cpu_seconds = 104.0, 3.5
    assert forking._counted(asked)[-2:] == (100.0, 3.75)
    assert forking._counted(asked._replace(born=110.0))[-2:] == (106.0, 3.75)


def test_imports_that_ask_cuda_for_its_devices_are_noticed(monkeypatch):
    for answer in (True, False):
        cuda = SimpleNamespace(_is_in_bad_fork=lambda answer=answer: answer)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        assert imports.can_fork() is not answer


def test_the_imports_start_no_thread_and_leave_cuda_alone():
    words = """
import os, threading
from headscope.pipeline.warm.imports import can_fork, import_all
import_all()
import torch
threads = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
assert {*threads[1:]} <= {"jemalloc_bg_thd"}, threads  # of pyarrow, which stops and starts it at a fork
assert threading.active_count() == 1 and can_fork() and not torch.cuda.is_initialized()
if torch.cuda.is_available() and not os.fork():
    os._exit(int(torch.ones(2, device="cuda").sum() != 2))
"""
    subprocess.run([sys.executable, "-c", words], check=True)
