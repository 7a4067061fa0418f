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
from headscope.pipeline.plan.batches import batches, forget_stale, marks, write_batches
from headscope.pipeline.plan.memory import gpu_mb, memory_mb
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
MARKS = marks(PLAN)
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
FIGURES = list(dict.fromkeys(name for point in PLAN.points for name in point.figures))
BATCHES = {batch.name: batch for batch in batches(PLAN)}
BATCH_OF = {node.address: batch for batch in BATCHES.values() for node in batch.nodes}
if IS_MAIN:
    forget_stale(MARKS, BATCHES.values(), UNFINISHED)

# Progress shows on the terminal and stays in the log; a failed stage fails the pipe (Snakemake sets pipefail).
# A stage ends when the Snakemake that started it, the parent of this shell, has ended.
# headscope.pipeline.warm.start knows the variables that jobs have.
# OpenMP's threads, where a job has several, would wait for each other by computing: on a busy machine four times the work.
SHELL = (
    "OMP_WAIT_POLICY=passive HEADSCOPE_PARENT=$PPID {params.command} 2>&1 | tee {log:q}"
)


wildcard_constraints:
    batch=r"[\w.-]+--[0-9a-f]{10}",
    key=r"[\w.-]+--[0-9a-f]{10}",
    digest=r"[0-9a-f]{10}",


def claim():
    """Record what this run makes, for other runs and `headscope gc`; the record goes with the process.

    The jobs of its batches are written for `headscope batch`.
    """
    jobs = list(workflow.dag.needrun_jobs())
    chosen = [
        BATCHES[job.wildcards.batch] for job in jobs if "batch" in job.wildcards.keys()
    ]
    made = {
        node.address
        for batch in chosen
        for node in batch.nodes
        if node.address in UNFINISHED
    }
    others = [job for job in jobs if "batch" not in job.wildcards.keys()]
    made |= {
        str(Path(file).parent.relative_to(RESULTS))
        for job in others
        for file in job.output
    }
    record = ExitStack()
    atexit.register(record.close)
    try:
        record.enter_context(at_work(Path(RESULTS), config["command"], sorted(made)))
        write_batches(PLAN, chosen)
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
    """Return the file that marks the end of a batch; its jobs' folders are renamed into place one by one."""
    return f"{RESULTS}/.jobs/{stage}/{{batch}}.done"


def ends(nodes):
    """Return the marks of the batches that make those of some jobs which are not done."""
    addresses = {node.address for node in nodes} & {*UNFINISHED}
    return sorted({f"{RESULTS}/{BATCH_OF[address].path}.done" for address in addresses})


def of_batch(wildcards):
    """Return what a batch waits for."""
    nodes = BATCHES[wildcards.batch].nodes
    return ends(parent for node in nodes for parent in node.parents)


def of_table(column):
    """Return a function from a batch's wildcards to what the table of stages says of its stage."""
    return lambda wildcards: getattr(STAGES[BATCHES[wildcards.batch].stage], column)


def of_jobs(need):
    """Return a function from a batch's wildcards to the most that one of its jobs needs of a memory, in MiB."""
    return lambda wildcards: max(
        need(Path(RESULTS), node) for node in BATCHES[wildcards.batch].nodes
    )


def gpus(wildcards):
    """Return 1 if a batch says cuda and its stage can use it, else 0."""
    batch = BATCHES[wildcards.batch]
    on_gpu = json.loads(batch.nodes[0].spec).get("device") == "cuda"
    return int(STAGES[batch.stage].gpu and on_gpu)


def run_batch(wildcards):
    """Return the command of a batch."""
    return headscope("batch", f"{RESULTS}/{BATCHES[wildcards.batch].path}.json")


def cores_of_asset(wildcards):
    """Return the cores of a job that fetches: a model is converted and checked while little else can go on."""
    [node] = BATCHES[wildcards.batch].nodes
    spec = json.loads(node.spec)
    heavy = spec["kind"] == "model" and spec["source"]["type"] != "random"
    return (os.cpu_count() or 1) if heavy else 1


def caption(figure):
    """Return a figure's caption for the report; one without a caption of its own has the common one."""
    own = PLAN.root / "workflow/report" / f"{figure}.rst"
    name = figure if own.is_file() else "default"
    return workflow.current_basedir.join(f"../report/{name}.rst")


CAPTIONS = {figure: caption(figure) for figure in FIGURES}


def log_file(stage):
    """Return the path of a batch's log."""
    return f"{RESULTS}/logs/{stage}/{{batch}}.log"


def message(stage):
    """Return what Snakemake says when a batch starts."""
    return f"{STAGES[stage].message}: {{wildcards.batch}}"


def headscope(*words):
    """Return a command, by the interpreter that runs Snakemake, so that nothing need be activated."""
    return shlex.join([sys.executable, "-m", "headscope", *words])


def results():
    """Return the files that jobs end with. Of what is done, batches appear only where their mark is left, for the report."""
    marks_of = {f"{RESULTS}/{batch.path}.done": batch for batch in BATCHES.values()}
    return [
        mark
        for mark, batch in marks_of.items()
        if Path(mark).exists() or batch.lacks_any(UNFINISHED)
    ]


def copies():
    """Return each plain-named copy as its marker, whose name carries the key: another key is a missing file."""
    return [str(PLAN.marker(copy)) for copy in PLAN.copies()]


def figure_of(wildcards):
    """Return the node that a plain-named copy is made of."""
    copy = f"{wildcards.point}/{wildcards.figure}--{wildcards.digest}"
    return PLAN.copies()[copy]


def of_copy(wildcards):
    """Return what a plain-named copy waits for; of a figure that is drawn, its picture, which the report shows."""
    node, figure = figure_of(wildcards), wildcards.figure
    if node.address in UNFINISHED:
        return ends([node])
    picture = report(
        f"{PLAN.folder(node)}/{figure}.png",
        caption=CAPTIONS[figure],
        category="Figures",
        subcategory=f"{FIGURES.index(figure) + 1:02} {figure}",  # the report sorts by name
        labels={"figure": figure, "of": node.key},
    )
    return ancient(picture)
