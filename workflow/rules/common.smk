# What the rules share. All parameters come from the plan: a rule looks its node up by the key in its path.
import json
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from headscope.errors import HeadscopeError
from headscope.pipeline import plan as planning

try:
    PLAN = planning.build(
        shlex.split(str(config.get("hydra", ""))), Path(workflow.basedir)
    )
    PLAN.check_results()
except HeadscopeError as error:
    raise WorkflowError(str(error))

RESULTS = PLAN.results
PYTHON = (
    sys.executable
)  # the interpreter that runs Snakemake, so that nothing need be activated

# Progress shows on the terminal and stays in the log; a failed stage fails the pipe (Snakemake sets pipefail).
RUN = (
    "{PYTHON:q} -m headscope {rule} {params.spec:q} {RESULTS:q}/{rule}/{wildcards.key} {params.parents:q}"
    " 2>&1 | tee {log:q}"
)


wildcard_constraints:
    key=r"[\w.-]+--[0-9a-f]{10}",
    digest=r"[0-9a-f]{10}",


def node(stage, wildcards):
    return PLAN.nodes[stage][wildcards.key]


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


def folders(stage):
    """Parent folders for the command line; taking `input` keeps them out of Snakemake's tracking."""
    return lambda wildcards, input: [
        str(PLAN.folder(parent)) for parent in node(stage, wildcards).parents
    ]


def gpus(stage):
    """One GPU where the slice says cuda."""
    return lambda wildcards: int(
        json.loads(node(stage, wildcards).spec)["device"] == "cuda"
    )
