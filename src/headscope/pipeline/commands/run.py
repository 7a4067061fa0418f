"""`headscope run [-m] [option=value ...] [-- snakemake options]`: run an experiment to its figures and report.

Options are in Hydra's grammar (`experiment=smoke window.recent=64,128`); options after `--` go to Snakemake.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from headscope.errors import AssetError, ConfigError
from headscope.pipeline.config.compose import compose, find_root
from headscope.pipeline.config.options import Option, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.config.schema import MISSING
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.estimate import estimate, runs_elsewhere
from headscope.pipeline.plan.memory import refuse_too_large
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.plan.unfinished import remaining, unfinished
from headscope.pipeline.progress import clock
from headscope.pipeline.scheduler import run, snakemake

NO_RESULTS = (
    *("-n", "--dry-run", "--dryrun", "--unlock", "--dag", "--rulegraph", "--filegraph", "--summary", "--lint"),
    *("-h", "--help", "-v", "--version", "-l", "--list", "--list-rules", "--report"),
)
PARTS = ("-U", "--until", "-O", "--omit-from")
"""Options of Snakemake that leave out a part of the plan."""


def main(arguments: Sequence[str]) -> int:
    """Run Snakemake on an experiment, make its report, and print where the results are."""
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    words, passed = words[:cut], words[cut + 1 :]
    if {"-h", "--help"} & set(words):
        print(_help(find_root()))
        return 0
    if "--cfg" in words:
        return _show_config(words)
    overrides = [word for word in words if word not in ("-m", "--multirun")]  # sweeps need no flag here
    if flags := [word for word in overrides if word.startswith("-")]:
        raise ConfigError(f"unknown option {flags[0]}; options of Snakemake follow a `--`: headscope run -- {flags[0]}")
    plan = planning.build(overrides)
    plan.check()
    return _run(plan, overrides, passed)


def _run(plan: Plan, overrides: Sequence[str], passed: Sequence[str]) -> int:
    """Run Snakemake; return 0 if all that it was asked for is there, whatever Snakemake says."""
    start, command = time.monotonic(), snakemake(overrides, passed)
    flags = {word.partition("=")[0] for word in passed}
    if flags & set(NO_RESULTS):
        return subprocess.run(command, cwd=plan.root).returncode
    missing = unfinished(plan)
    here = not runs_elsewhere(passed)
    if here:
        refuse_too_large(plan, missing)
    if expected := estimate(plan, missing, passed):
        print(f"headscope: {expected}", file=sys.stderr, flush=True)
    code = run(command, plan.root, warm=here and bool(missing))
    gaps = remaining(plan, unfinished(plan))
    if gaps and not code and flags & set(PARTS):
        print(f"headscope: {gaps}; {' '.join(passed)} left them out, so there is no report", file=sys.stderr)
    elif gaps:
        print(f"headscope: {gaps}; run the same command again", file=sys.stderr)
        return code or 1
    elif not code:
        _report(plan, overrides)
        _say(plan, time.monotonic() - start)
    return code


def _help(root: Path) -> str:
    """List groups with their choices, and every option with unit, range and default."""
    lines = [
        "usage: headscope run [-m] [option=value ...] [-- snakemake options]",
        "",
        "  headscope run experiment=smoke window.recent=64,128    a sweep: one graph, shared results",
        "  headscope run experiment=default -- -c4 -n             what would run",
        "  headscope run experiment=smoke --cfg job               the composed configuration",
        "",
        "Groups (group=choice):",
        *(f"  {name}: {', '.join(choices)}" for name, choices in groups(root).items()),
        "",
        "Options (option=value; a list as [a,b], a sweep as a,b):",
        *(f"  {_line(option)}" for option in options()),
    ]
    return "\n".join(lines)


def _line(option: Option) -> str:
    default = "" if option.default in (MISSING, [], {}) else f"; default {option.default}"
    path = option.path.replace("*", "<name>")
    return f"{path}: {option.metadata['help']} [{option.accepts}{default}]"


def _show_config(words: list[str]) -> int:
    """Print the composed configuration of each point, as Hydra's `--cfg job` does."""
    at = words.index("--cfg")
    if words[at + 1 : at + 2] != ["job"]:
        raise ConfigError("option --cfg: only `--cfg job` is known")
    overrides = [word for word in words[:at] + words[at + 2 :] if word not in ("-m", "--multirun")]
    for name, config in compose(overrides, find_root()):
        print((f"# {name}\n" if name else "") + yaml.safe_dump(config, sort_keys=False), end="")
    return 0


def report_file(plan: Plan) -> Path:
    """Return the path of a plan's report: beside the plain-named figures of its experiment."""
    return plan.root / plan.results / "figures" / plan.points[0].config.name / "report.html"


def _report(plan: Plan, overrides: Sequence[str]) -> None:
    """Make one HTML file of all figures with their captions; it appears whole or not at all.

    Raises:
        AssetError: Snakemake cannot make it.
    """
    report = report_file(plan)
    part = report.with_name(f".{report.name}")  # Snakemake wants the ending
    command = snakemake(overrides, ["--report", str(part)])
    made = subprocess.run(command, cwd=plan.root, capture_output=True, text=True, errors="replace")
    if made.returncode or not part.is_file():
        words = (made.stderr.strip() or "Snakemake made none and said nothing").splitlines()
        raise AssetError(f"all results are made, but the report {report} is not: {words[-1]}")
    part.replace(report)


def _say(plan: Plan, seconds: float) -> None:
    """Print the last lines: the results, their folders, and the tasks that could not be drawn."""
    figures = plan.root / plan.results / "figures"
    print(f"\n{len(list(plan))} results in {clock(seconds)} under {plan.root / plan.results}")
    for point in plan.points:
        print(f"figures  {figures / point.name}: {', '.join(point.figures)} (.pdf .png .csv)")
    print(f"report   {report_file(plan)}")
    print("".join(f"left out {each.reason}\n" for each in plan.left_out()), end="")
