"""`headscope run [-m] [option=value ...] [-- snakemake options]`: run an experiment to its figures and report.

Options are in Hydra's grammar (`experiment=smoke window.recent=64,128`); options after `--` go to Snakemake.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT

import yaml

from headscope.errors import ConfigError
from headscope.pipeline.config.compose import compose, find_root
from headscope.pipeline.config.options import Option, options
from headscope.pipeline.config.overrides import groups
from headscope.pipeline.config.schema import MISSING
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.plan import Plan
from headscope.pipeline.progress import clock

STEPS = re.compile(r"^(\d+) of (\d+) steps \(\d+%\) done")
NO_RESULTS = ("-n", "--dry-run", "--dryrun", "--unlock", "--dag", "--rulegraph", "--filegraph", "--summary", "--lint")


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
    start = time.monotonic()
    command = snakemake(overrides, passed)
    if any(word in NO_RESULTS for word in passed):
        return subprocess.run(command, cwd=plan.root).returncode
    return _watched(plan, command) or _report(plan, overrides) or _say(plan, time.monotonic() - start)


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


def snakemake(overrides: Sequence[str], passed: Sequence[str]) -> list[str]:
    """Return the command of Snakemake on an experiment, by the interpreter that runs this."""
    # Snakemake strips quotation marks from both ends of a value, be they of two different overrides; spaces keep them.
    words = f" {shlex.join(overrides)} " if overrides else ""
    return [sys.executable, "-m", "snakemake", "--config", f"hydra={words}", *passed]


def _watched(plan: Plan, command: Sequence[str]) -> int:
    """Run Snakemake; print after each job the time that is left, and at the end the errors again."""
    start, errors = time.monotonic(), []
    with subprocess.Popen(command, cwd=plan.root, stdout=PIPE, stderr=STDOUT, text=True, bufsize=1) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", file=sys.stderr, flush=True)
                if line.startswith("headscope: ") and "warning" not in line:
                    errors.append(line)
                if steps := STEPS.match(line):
                    done, total, seconds = int(steps[1]), int(steps[2]), time.monotonic() - start
                    left = clock(seconds / done * (total - done))
                    eta = f"headscope: {done} of {total} jobs in {clock(seconds)}, about {left} left"
                    print(eta, file=sys.stderr, flush=True)
        except KeyboardInterrupt:  # Snakemake got it too and ends its jobs
            process.wait()
            raise
    if process.returncode:  # again, below Snakemake's long words
        print("".join(dict.fromkeys(errors)), end="", file=sys.stderr)
    return process.returncode


def report_file(plan: Plan) -> Path:
    """Return the path of a plan's report: beside the plain-named figures of its experiment."""
    return plan.root / plan.results / "figures" / plan.points[0].config.name / "report.html"


def _report(plan: Plan, overrides: Sequence[str]) -> int:
    """Make one HTML file of all figures with their captions; only Snakemake's errors are printed."""
    command = snakemake(overrides, ["--report", str(report_file(plan)), "--quiet", "all"])
    return subprocess.run(command, cwd=plan.root, stdout=subprocess.DEVNULL).returncode


def _say(plan: Plan, seconds: float) -> int:
    """Print the last lines: the results, their folders, and the tasks that could not be drawn."""
    figures = plan.root / plan.results / "figures"
    print(f"\n{len(list(plan))} results in {clock(seconds)} under {plan.root / plan.results}")
    for point in plan.points:
        print(f"figures  {figures / point.name}: {', '.join(point.figures)} (.pdf .png .csv)")
    print(f"report   {report_file(plan)}")
    print("".join(f"left out {each.reason}\n" for each in plan.left_out()), end="")
    return 0
