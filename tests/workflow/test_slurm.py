"""The Slurm profile on a real Slurm of one node, which is unpacked and started for these tests.

Two runs go on at once, since both mostly wait: smoke with its real stages, and a sweep of stand-ins in which one job
fails and one meets its time limit.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_node
from project import Project
from slurm_node import SlurmNode

SMALL = "experiment=smoke benchmark.ruler.tasks=[fwe] criterion=[dense,local] figure=[score_tasks]"
SWEEP = f"{SMALL} criterion=[dense,qada_random_words] model.device=cuda benchmark.ruler.lengths=[1024],[1536]"
PROFILE = ["--workflow-profile", "profiles/slurm", "--latency-wait", "10"]

# Two lengths meet, so that both run at once. Then one fails, and one goes on until its time limit ends it.
MOMENTS = """\
import os, time
from headscope.errors import AssetError
length = spec["length"]
(out / "half").touch()
def wait(*files):
    for _ in range(6000):  # also on a machine that is busy with other things
        if all(Path(file).exists() for file in files):
            return
        time.sleep(0.1)
    raise AssetError("waited in vain")
Path(f"new-{length}").write_text(json.dumps([os.environ.get(x) for x in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES")]))
os.rename(f"new-{length}", f"job-{length}")
wait("job-1024", "job-1536")
if length == 1024 and not Path("repaired").exists():
    raise AssetError("the file x is damaged; fetch it again")
wait("repaired")
(out / "half").unlink()
"""


class Run:
    """A command that goes on while others do."""

    def __init__(self, project: Project, command: list[str]):
        # The kernel ends it if pytest is ended.
        words = ["setpriv", "--pdeathsig", "KILL", *command]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.project, self.start = project, time.monotonic()
        self.process = subprocess.Popen(words, cwd=project.root, env=project.environment, **streams)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and what it said."""
        said, _ = self.process.communicate(timeout=600)
        print(f"{time.monotonic() - self.start:.0f} s, status {self.process.returncode}\n{said}")
        return self.process.returncode, said


@pytest.fixture(scope="module")
def node() -> Iterator[SlurmNode]:
    try:
        with slurm_node.running() as node:
            yield node
    except slurm_node.Unavailable as error:
        pytest.skip(str(error))


def on_slurm(project: Project) -> Run:
    """Start the moments of the sweep: its only jobs that want a GPU and nothing but the model."""
    command = project.command(SWEEP, "--until", "moments", *PROFILE)
    return Run(project, [word for word in command if word != "-c2"])


@pytest.fixture(scope="module")
def runs(node: SlurmNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """The two runs, just started."""
    sweep, smoke = (Project(tmp_path_factory.mktemp(name)) for name in ("sweep", "smoke"))
    for project in (sweep, smoke):
        path = f"{project.root / 'src'}{os.pathsep}{node.variables['PYTHONPATH']}"
        project.environment |= {**node.variables, "PYTHONPATH": path}
    sweep.stub_stages().inject("moments", *MOMENTS.splitlines())
    smoke.run(SMALL, "--until", "prompts")  # on this machine: what it made is used by the cluster
    command = [sys.executable, "-m", "headscope", "run", *SMALL.split(), "--", *PROFILE]
    runs = {"sweep": on_slurm(sweep), "smoke": Run(smoke, command)}
    yield runs
    for run in runs.values():
        run.process.kill()


def test_jobs_of_a_sweep_have_gpus_and_go_on_after_a_failure_and_a_time_limit(
    node: SlurmNode, runs: dict[str, Run]
) -> None:
    run = runs["sweep"]
    project, root = run.project, run.project.root
    files = [root / "job-1024", root / "job-1536"]
    assert slurm_node.wait(lambda: all(file.exists() for file in files), 300)
    (failing, gpu), (lasting, other) = (json.loads(file.read_text()) for file in files)
    assert {gpu, other} == {"0", "1"}
    node.say("scontrol", "update", f"JobId={lasting}", "EndTime=now")  # a time limit has whole minutes otherwise
    status, said = run.end()
    assert status == 1 and "headscope: the file x is damaged; fetch it again\n" in said
    assert [node.state(job) for job in (failing, lasting)] == ["FAILED", "TIMEOUT"]
    assert f"SLURM-job '{lasting}' failed, SLURM status is: 'TIMEOUT'" in said
    assert not [path for path in Path(root, "results/moments").rglob("*") if path.is_file()]
    (root / "repaired").touch()
    assert on_slurm(project).end()[0] == 0
    assert len(list(root.glob("results/moments/*/moments.safetensors"))) == 2


def test_smoke_ends_in_the_figures_of_a_run_on_this_machine(runs: dict[str, Run]) -> None:
    run = runs["smoke"]
    status, said = run.end()
    assert status == 0
    assert said.count("has been submitted with SLURM jobid") == 4  # copies of figures are made where Snakemake runs
    figures = run.project.root / "results/figures/smoke"
    wanted = {"report.html", *(f"score_tasks.{end}" for end in ("csv", "pdf", "png"))}
    assert wanted <= {path.name for path in figures.iterdir()}
