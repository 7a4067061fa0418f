"""`headscope batch <file>`: run the jobs of a file one after the other in one process, which loads a model once.

What is done already is left as it is. A job that fails does not keep the others from running; the status is then 1.
The mark of the end, beside the file, says in JSON how long the process took, start included, and its jobs.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError, HeadscopeError
from headscope.pipeline.commands.stage import import_stage, prepare, run
from headscope.pipeline.plan.stages import STAGES
from headscope.pipeline.spent import spent
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import atomic_file, results_root
from headscope.pipeline.store.intact import problem
from headscope.pipeline.store.runs import at_work

PATIENCE = 60.0  # seconds until a parent that another machine made must be seen through a shared file system


def main(arguments: Sequence[str]) -> int:
    """Run a batch from the command line; at its end, without a failure, mark it as done beside its file."""
    parser = argparse.ArgumentParser(prog="headscope batch", description=__doc__)
    parser.add_argument("file", type=Path, help="jobs, JSON: a list of stage, spec, out and parents")
    file = parser.parse_args(arguments).file
    jobs = _read(file)
    prepare()
    if any(job["spec"].get("device") == "cuda" and not job["spec"].get("device_map") for job in jobs):
        import_module("headscope.pipeline.gpus").take_gpu()  # torch takes seconds to import
    for stage in {job["stage"] for job in jobs}:
        import_stage(stage)  # which is no part of a job's seconds
    start = time.monotonic()
    with at_work(results_root(Path(jobs[0]["out"])), f"{jobs[0]['stage']}/{file.stem}"):
        failures = [job for job in jobs if not _done(job)]
    if failures:
        return 1
    seconds = {**spent(), "jobs_seconds": time.monotonic() - start}
    with atomic_file(file.with_suffix(".done")) as mark:
        mark.write_text(json.dumps({"jobs": len(jobs), **seconds}), encoding="utf-8")
    return 0


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        jobs: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        if jobs and all({"stage", "spec", "out", "parents"} <= {*job} for job in jobs):
            return jobs
        reason = "a job lacks its stage, spec, out or parents"
    except (OSError, ValueError, TypeError) as error:
        reason = type(error).__name__
    raise ConfigError(f"{file} is no list of jobs ({reason}); headscope run writes it")


def _done(job: Mapping[str, Any]) -> bool:
    """Run a job unless it is done; return whether it is now. An error is said, and the next job has its turn."""
    out, parents = Path(job["out"]), [Path(parent) for parent in job["parents"]]
    _wait_for(parents)
    if (out / provenance.FILE).is_file() and problem(out, STAGES[job["stage"]].files(job["spec"])) is None:
        return True
    try:
        run(job["stage"], job["spec"], out, parents)
    except HeadscopeError as error:
        print(f"headscope: {error}", file=sys.stderr)
        return False
    except Exception:
        traceback.print_exc()
        return False
    return True


def _wait_for(parents: Sequence[Path]) -> None:
    """Wait until all parents are seen; a job says of those that are missing for good what is to be done."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not all((parent / provenance.FILE).is_file() for parent in parents):
        time.sleep(1)
