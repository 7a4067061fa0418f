# What the rules share. All parameters come from the plan: a rule looks its node up by the key in its path.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from headscope.errors import HeadscopeError
from headscope.pipeline.plan import plan as planning

try:
    PLAN = planning.build(
        shlex.split(config.get("hydra") or ""), Path(workflow.basedir)
    )
    PLAN.check_results()
    PLAN.check_files()
except HeadscopeError as error:
    raise WorkflowError(str(error))

RESULTS = PLAN.results
FIGURES = sorted({name for point in PLAN.points for name in point.figures})

# Progress shows on the terminal and stays in the log; a failed stage fails the pipe (Snakemake sets pipefail).
SHELL = "{params.command} 2>&1 | tee {log:q}"


wildcard_constraints:
    key=r"[\w.-]+--[0-9a-f]{10}",
    digest=r"[0-9a-f]{10}",


def node(stage, wildcards):
    """The node whose folder a rule is asked to make."""
    return (PLAN.tracks if stage == "track" else PLAN.nodes[stage])[wildcards.key]


def outputs(stage):
    """The declared files of a stage; the driver renames the whole folder into place."""
    names = [*planning.OUTPUTS[stage], "provenance.json"]
    return [f"{RESULTS}/{stage}/{{key}}/{name}" for name in names]


def inputs(stage):
    """Declared files of the parents, ancient: an address says all that made a file, its time says nothing."""
    return lambda wildcards: [
        ancient(file)
        for parent in node(stage, wildcards).parents
        for file in PLAN.files(parent)
    ]


def spec(stage):
    """The only tracked param: a rule with several, or with any other type, is not tracked reliably."""
    return lambda wildcards: node(stage, wildcards).spec


def command(stage):
    """The stage's command, by the interpreter that runs Snakemake, so that nothing need be activated.

    It takes `input`, which keeps it out of what Snakemake tracks: the interpreter's path makes no other result.
    """

    def words(wildcards, input):
        found = node(stage, wildcards)
        parents = [str(PLAN.folder(parent)) for parent in found.parents]
        folder = str(PLAN.folder(found))
        return shlex.join(
            [sys.executable, "-m", "headscope", stage, found.spec, folder, *parents]
        )

    return words


def gpus(stage):
    """One GPU where the slice says cuda."""
    return lambda wildcards: int(
        json.loads(node(stage, wildcards).spec)["device"] == "cuda"
    )


def copies():
    """Each plain-named copy as its marker, whose name carries the key: another key is a missing file."""
    return [f"{RESULTS}/figures/{copy}.key" for copy in PLAN.copies()]


def pictures(wildcards):
    """The files that a plain-named copy is made of."""
    found = PLAN.copies()[f"{wildcards.point}/{wildcards.figure}--{wildcards.digest}"]
    return [
        f"{PLAN.folder(found)}/{wildcards.figure}.{end}"
        for end in ("pdf", "png", "csv")
    ]


def tracked():
    """One marker for each experiment of the plan, if tracking is on."""
    return [file for found in PLAN.tracks.values() for file in PLAN.files(found)]
