"""A one-node Slurm with two pretended GPUs on the loopback address, all of it in one temporary folder.

Debian's packages and Snakemake's plugin are downloaded and unpacked there, never installed: no root is needed, and a
Slurm of this machine is left alone. The commands in the node's `bin` know its configuration, ports and libraries. The
daemons end with the process that started them, however it ends.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Not among the packages for tests: Snakemake imports every plugin that it finds, with pandas, at each of its starts.
PLUGINS = ("snakemake-executor-plugin-slurm", "snakemake-executor-plugin-slurm-jobstep")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge", "libmunge2")
DAEMONS = ("slurmctld", "slurmd", "slurmstepd")

# More processors and memory than this machine may have, since nothing is measured here. No accounting: the harder case.
CONFIGURATION = """\
ClusterName=loop
SlurmctldHost=localhost(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
MinJobAge=300
KillWait=5
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=4 RealMemory=100000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """Why no node can be had here."""


class SlurmNode:
    """A running node.

    Attributes:
        variables: what the environment of a Snakemake that uses it must have.
    """

    def __init__(self, folder: Path):
        self.folder, self.bin, self.root = folder, folder / "bin", folder / "root"
        for name in ("bin", "state", "spool"):
            (folder / name).mkdir()
        _unpack(folder)
        _fetch_plugins(folder / "python")
        [self.plugins] = self.root.glob("usr/lib/*/slurm-wlm")
        libraries = os.pathsep.join(
            [str(self.plugins), str(self.plugins.parent), os.environ.get("LD_LIBRARY_PATH", "")]
        )
        self.environment = {"LD_LIBRARY_PATH": libraries.rstrip(os.pathsep), "SLURM_CONF": str(folder / "slurm.conf")}
        values = {"folder": folder, "plugins": self.plugins, "user": getpass.getuser(), "ports": _free_ports(2)}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (folder / "gres.conf").write_text("NodeName=localhost Name=gpu File=/dev/null,/dev/zero\n")
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        self._write_commands()
        first = {"PATH": self.bin, "PYTHONPATH": folder / "python"}
        self.variables = {name: f"{path}{os.pathsep}{os.environ.get(name, '')}" for name, path in first.items()}

    def _write_commands(self) -> None:
        """Write a script for each command of Slurm, which sets what the command must know."""
        settings = "".join(f"export {name}='{value}'\n" for name, value in self.environment.items())
        for program in self.root.glob("usr/bin/s*"):
            script = self.bin / program.name
            script.write_text(f'#!/bin/sh\n{settings}exec {program} "$@"\n')
            script.chmod(0o755)
        for name in DAEMONS:  # they read their own name, which an installation would set
            (self.root / "usr/sbin" / name).symlink_to(f"{name}-wlm")

    def daemons(self) -> list[list[str]]:
        """Return the commands of the daemons, in the order of their start."""
        sbin, folder = self.root / "usr/sbin", self.folder
        files = {"key-file": "key", "socket": "munge.socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        munge = [f"--{option}={folder / name}" for option, name in files.items()]
        return [
            [f"{sbin}/munged", "--foreground", "--force", *munge],
            [f"{sbin}/slurmctld", "-D"],
            [f"{sbin}/slurmd", "-D", "-N", "localhost", "-d", f"{sbin}/slurmstepd"],
        ]

    def say(self, *words: str) -> str:
        """Run one of Slurm's commands; return what it said."""
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout

    def jobs(self) -> list[str]:
        """Return the states of all jobs that are in the queue or running."""
        return self.say("squeue", "-h", "-o", "%T").split()

    def state(self, job: str) -> str:
        """Return the state of a job, also of one that ended some minutes ago."""
        return self.say("squeue", "-h", "-o", "%T", "--states", "all", "--jobs", job).strip()


@contextmanager
def running() -> Iterator[SlurmNode]:
    """Start a node; end it with its jobs and remove all of it.

    Raises:
        Unavailable: this system has no such packages, or the node does not come up.
    """
    with ExitStack() as stack:
        # Not in a folder of pytest's: the path of munge's socket has at most 107 characters.
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        node = SlurmNode(folder)
        environment = {**os.environ, **node.environment}
        log = stack.enter_context((folder / "daemons.log").open("wb"))
        for command in node.daemons():
            # The kernel ends a daemon whose parent is gone.
            words = ["setpriv", "--pdeathsig", "TERM", *command]
            daemon = subprocess.Popen(words, env=environment, cwd=folder, stdout=log, stderr=log)
            stack.callback(_end, daemon)
            wait(lambda: (folder / "munge.socket").exists(), 10)
        if not wait(lambda: "idle" in node.say("sinfo", "-h", "-o", "%T"), 20):
            raise Unavailable(f"Slurm does not come up: {(folder / 'daemons.log').read_text()[-2000:]}")
        stack.callback(wait, lambda: not node.jobs(), 20)
        stack.callback(node.say, "scancel", "--user", getpass.getuser())
        yield node


def _unpack(folder: Path) -> None:
    """Download the packages with all that they need and this machine lacks, and unpack them."""
    if missing := [name for name in ("apt-get", "dpkg-deb", "setpriv") if not shutil.which(name)]:
        raise Unavailable(f"no {missing[0]}: Slurm is taken from Debian's packages")
    lists = folder / "lists" / "partial"
    lists.mkdir(parents=True)
    options = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "APT::Sandbox::User="]
    own = [*options, "-o", f"Dir::State::lists={lists.parent}", "-o", f"Dir::Cache={folder}"]
    try:
        try:
            _download(folder, options)
        except subprocess.SubprocessError:  # this machine's lists of packages are missing or old
            _apt(folder, [*own, "-qq", "update"])
            _download(folder, own)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True, capture_output=True)
    except subprocess.SubprocessError as error:
        raise Unavailable(f"Debian's packages of Slurm cannot be had: {error}") from error


def _fetch_plugins(folder: Path) -> None:
    """Fetch Snakemake's plugins for Slurm in the tested versions; what they need is there."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder]
    command += ["-c", ROOT / "constraints.txt", *PLUGINS]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=90)
    except subprocess.SubprocessError as error:
        raise Unavailable(f"Snakemake's plugin for Slurm cannot be had: {error}") from error


def _download(folder: Path, options: Sequence[str]) -> None:
    plan = _apt(folder, [*options, "-s", "install", "--no-install-recommends", *PACKAGES])
    new = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    _apt(folder, [*options, "-qq", "download", *sorted({*PACKAGES, *new})])


def _apt(folder: Path, words: Sequence[str]) -> str:
    command = ["apt-get", *words]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=90)
    return done.stdout


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
