# What the rules share. All parameters come from the plan: a rule finds its job by the key in its path.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from headscope.errors import HeadscopeError
from headscope.pipeline.config.compose import find_root
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.stages import STAGES

try:
    PLAN = planning.build(
        shlex.split(config.get("hydra") or ""), find_root(Path(workflow.basedir))
    )
    PLAN.check()
except HeadscopeError as error:
    raise WorkflowError(str(error))

# For the text of the report, which is made when prompts are done.
config["left_out"] = [each.reason for each in PLAN.left_out()]

RESULTS = PLAN.results
NODES = {node.key: node for node in [*PLAN, *PLAN.tracks.values()]}
FIGURES = sorted({name for point in PLAN.points for name in point.figures})

# Progress shows on the terminal and stays in the log; a failed stage fails the pipe (Snakemake sets pipefail).
SHELL = "{params.command} 2>&1 | tee {log:q}"


wildcard_constraints:
    key=r"[\w.-]+--[0-9a-f]{10}",
    digest=r"[0-9a-f]{10}",


def stage_of(wildcards):
    """Return the row of a job in the table of stages."""
    return STAGES[NODES[wildcards.key].stage]


def outputs(stage, **spec):
    """Return the declared files of a stage; the command renames the whole folder into place."""
    return [f"{RESULTS}/{stage}/{{key}}/{name}" for name in STAGES[stage].files(spec)]


def inputs(wildcards):
    """Return the parents' files, ancient: an address says all that made a file, its time says nothing."""
    parents = NODES[wildcards.key].parents
    return [ancient(file) for parent in parents for file in PLAN.files(parent)]


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


def copies():
    """Return each plain-named copy as its marker, whose name carries the key: another key is a missing file."""
    return [f"{RESULTS}/figures/{copy}.key" for copy in PLAN.copies()]


def pictures(wildcards):
    """Return the files that a plain-named copy is made of."""
    copy = f"{wildcards.point}/{wildcards.figure}--{wildcards.digest}"
    return PLAN.files(PLAN.copies()[copy])[:-1]


def tracked():
    """Return one marker for each experiment of the plan, if tracking is on."""
    return [file for node in PLAN.tracks.values() for file in PLAN.files(node)]
