"""The Snakefile itself: graphs of every experiment, lint, format, and what is tracked."""

import re
import subprocess
import sys
from pathlib import Path

from headscope.pipeline.plan.batches import batches
from headscope.pipeline.plan.plan import build

ROOT = Path(__file__).resolve().parents[2]


def test_no_options_mean_all_jobs_of_the_default_experiment(stubbed):
    """Every experiment is planned by `tests/conf`; this one has jobs of every stage."""
    command = [sys.executable, "-m", "snakemake", "-n"]
    done = subprocess.run(command, cwd=stubbed.root, env=stubbed.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smollm2_135m" in done.stdout + done.stderr
    plan = build([], ROOT)
    assert all(plan.nodes.values())
    jobs = len(batches(plan)) + len(plan.copies())
    assert re.search(rf"^total +{jobs + 1}$", done.stdout + done.stderr, re.MULTILINE)  # and the target


def test_both_entry_points_plan_the_same_jobs(stubbed):
    assert stubbed.planned("experiment=smoke", "-s", "workflow/Snakefile") == stubbed.planned("experiment=smoke") != {}


def test_lint_objects_only_to_the_missing_conda_environments(stubbed):
    said = stubbed.run("experiment=smoke", "--lint", code=1)
    assert set(re.findall(r"^ +\* (.+?):?$", said, re.MULTILINE)) == {
        "Specify a conda environment or container for each rule."
    }
    assert "conda" in (ROOT / "workflow/README.md").read_text()  # which says why


def test_rules_are_formatted():
    command = [str(Path(sys.executable).with_name("snakefmt")), "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
