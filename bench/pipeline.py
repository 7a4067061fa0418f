"""Seconds and CPU minutes of an experiment by stage, the share of start-up and scheduling, and how they grow.

Results are made anew in a temporary folder. Start-up is what processes take beside their jobs (imports; a model's
loading counts as a job's).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple


class Stage(NamedTuple):
    """What the jobs of a stage took: their number, processes, seconds of jobs and of processes, CPU seconds."""

    jobs: int
    processes: int
    seconds: float
    lifetime: float
    cpu: float


def main() -> None:
    """Print one table a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grow", action="store_true", help="run it with twice the prompts, lengths and criteria too")
    parser.add_argument("--cores", default="all", help="of Snakemake")
    parser.add_argument("--gpu", default="4", help="processes at a time on GPUs")
    parser.add_argument("options", nargs="*", help="of headscope run (default: experiment=smoke)")
    values = parser.parse_args()
    passed = ["--cores", values.cores, "--resources", f"gpu={values.gpu}"]
    for name, more in {"as it is": [], **(GROWTH if values.grow else {})}.items():
        with tempfile.TemporaryDirectory() as folder:
            options = [*(values.options or ["experiment=smoke"]), *more, f"results={folder}/results"]
            _measure(name, options, passed, Path(folder, "results"))


GROWTH = {
    "twice the prompts": ["benchmark.ruler.samples={evaluation:4,calibration:4}"],
    "two lengths": ["benchmark.ruler.lengths=[1024,2048]"],
    "half the criteria": ["criterion=[dense,local,oracle,qada]"],
}


def _measure(name: str, options: list[str], passed: list[str], results: Path) -> None:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "headscope", "run", *options, "--", *passed], check=True, capture_output=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    stages = _stages(results)
    print(f"\n### {name}: {' '.join(options[:-1])}\n\n| stage | jobs | processes | seconds | start-up | CPU min |")
    print("|---|---|---|---|---|---|")
    for stage, row in stages.items():
        shares = f"{row.seconds:.0f} | {_share(row):.0%} | {row.cpu / 60:.1f}"
        print(f"| {stage} | {row.jobs} | {row.processes} | {shares} |")
    jobs, lifetime, own = (sum(column) for column in list(zip(*stages.values(), strict=True))[2:])
    print(
        f"\n{wall:.0f} s and {cpu / 60:.1f} CPU min for {jobs:.0f} s of jobs; start-up {lifetime - jobs:.0f} s,",
        end=" ",
    )
    print(f"Snakemake and the report {cpu - own:.0f} CPU s")


def _share(row: Stage) -> float:
    return 1 - row.seconds / row.lifetime if row.lifetime else 0.0


def _stages(results: Path) -> dict[str, Stage]:
    """Add up the marks of batches."""
    marks = defaultdict(list)
    for mark in sorted(results.glob(".jobs/*/*.done")):
        marks[mark.parent.name].append(json.loads(mark.read_text(encoding="utf-8")))
    return {
        stage: Stage(
            sum(mark["jobs"] for mark in found),
            len(found),
            *(sum(mark[name] for mark in found) for name in ("jobs_seconds", "seconds", "cpu_seconds")),
        )
        for stage, found in marks.items()
    }


if __name__ == "__main__":
    main()
