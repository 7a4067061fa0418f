# What the rules share. All parameters come from the plan: a rule finds its job by the key in its path.
import atexit
import json
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecMode

from headscope.errors import HeadscopeError
from headscope.pipeline import lifeline
from headscope.pipeline.config.compose import find_root
from headscope.pipeline.config.overrides import split
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.plan.unfinished import (
    forget_garbage,
    remaining,
    set_aside,
    unfinished,
)
from headscope.pipeline.store.provenance import git_state
from headscope.pipeline.store.runs import at_work

try:
    OPTIONS = split(config.get("hydra") or "")
    PLAN = planning.build(OPTIONS, find_root(Path(workflow.basedir)))
    PLAN.check()
except HeadscopeError as error:
    raise WorkflowError(str(error))

# For the text of the report, which is made when all is done.
config["left_out"] = [each.reason for each in PLAN.left_out()]

config["command"] = shlex.join(["headscope", "run", *OPTIONS])
config["git"] = git_state() or {}

# What is missing or damaged is what runs. Snakemake sees no input of a job that is done, so it remembers nothing
# that counts: neither its metadata nor the time of a file.
UNFINISHED = unfinished(PLAN)
IS_MAIN = workflow.exec_mode == ExecMode.DEFAULT  # not within a job of a cluster
if IS_MAIN:
    if parent := os.environ.get("HEADSCOPE_RUN"):
        lifeline.end_with(int(parent), group=True)
    for address, reason in UNFINISHED.items():
        if reason.harmful:
            said = f"headscope: {address}: {reason.words}; it is made again"
            print(said, file=sys.stderr)
    forget_garbage(PLAN)
    if not workflow.output_settings.dryrun:
        set_aside(PLAN, UNFINISHED)

RESULTS = PLAN.results
NODES = {node.key: node for node in [*PLAN, *PLAN.tracks.values()]}
FIGURES = sorted({name for point in PLAN.points for name in point.figures})

# Progress shows on the terminal and stays in the log; a failed stage fails the pipe (Snakemake sets pipefail).
# A stage ends when the Snakemake that started it, the parent of this shell, has ended.
SHELL = "HEADSCOPE_PARENT=$PPID {params.command} 2>&1 | tee {log:q}"


wildcard_constraints:
    key=r"[\w.-]+--[0-9a-f]{10}",
    digest=r"[0-9a-f]{10}",


def stage_of(wildcards):
    """Return the row of a job in the table of stages."""
    return STAGES[NODES[wildcards.key].stage]


def claim():
    """Record what this run makes, for other runs and `headscope gc`; the record goes with the process."""
    made = {
        str(Path(file).parent.relative_to(RESULTS))
        for job in workflow.dag.needrun_jobs()
        for file in job.output
    }
    record = ExitStack()
    atexit.register(record.close)
    try:
        record.enter_context(at_work(Path(RESULTS), config["command"], sorted(made)))
    except HeadscopeError as error:
        fail(error)


def fail(problem):
    """End Snakemake with one line that `headscope run` repeats at the end."""
    print(f"headscope: {problem}", file=sys.stderr)
    raise WorkflowError(str(problem))


def refuse_gaps():
    """Fail if Snakemake was asked for the whole plan and takes it for done, and it is not."""
    settings = workflow.dag_settings
    if settings.until or settings.omit_from or settings.targets:
        return
    if gaps := remaining(PLAN, unfinished(PLAN)):
        fail(f"{gaps}; run the same command again")


def output(stage):
    """Return the file that a job ends with: the command renames the whole folder into place."""
    return f"{RESULTS}/{stage}/{{key}}/provenance.json"


def inputs(wildcards):
    """Return what a job waits for: its parents that are to be made."""
    parents = NODES[wildcards.key].parents
    return [
        f"{PLAN.folder(parent)}/provenance.json"
        for parent in parents
        if parent.address in UNFINISHED
    ]


def caption(figure):
    """Return a figure's caption for the report; one without a caption of its own has the common one."""
    own = PLAN.root / "workflow/report" / f"{figure}.rst"
    return f"../report/{figure if own.is_file() else 'default'}.rst"


def log_file(stage):
    """Return the path of a job's log."""
    return f"{RESULTS}/logs/{stage}/{{key}}.log"


def message(stage):
    """Return what Snakemake says when a job starts."""
    return f"{STAGES[stage].message}: {{wildcards.key}}"


def spec(wildcards):
    """Return the only tracked param: a rule with several, or with any other type, is not tracked reliably."""
    return NODES[wildcards.key].spec


def command(wildcards, input):
    """Return the command, by the interpreter that runs Snakemake, so that nothing need be activated.

    A param that takes `input` is not tracked: the interpreter's path makes no other result.
    """
    node = NODES[wildcards.key]
    folders = [str(PLAN.folder(each)) for each in (node, *node.parents)]
    return shlex.join(
        [sys.executable, "-m", "headscope", node.stage, node.spec, *folders]
    )


def gpus(wildcards):
    """Return 1 if the job's slice says cuda and the stage can use it, else 0."""
    on_gpu = json.loads(NODES[wildcards.key].spec).get("device") == "cuda"
    return int(stage_of(wildcards).gpu and on_gpu)


def results():
    """Return the file that each job of the plan ends with."""
    return [f"{PLAN.folder(node)}/provenance.json" for node in NODES.values()]


def copies():
    """Return each plain-named copy as its marker, whose name carries the key: another key is a missing file."""
    return [str(PLAN.marker(copy)) for copy in PLAN.copies()]


def figure_of(wildcards):
    """Return the node that a plain-named copy is made of."""
    copy = f"{wildcards.point}/{wildcards.figure}--{wildcards.digest}"
    return PLAN.copies()[copy]
