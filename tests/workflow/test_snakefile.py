"""The Snakefile itself: graphs of every experiment, lint, format, and what is tracked."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headscope.pipeline.config.overrides import groups

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", groups(ROOT)["experiment"])
def test_every_experiment_has_a_graph(stubbed, name):
    jobs = stubbed.planned(f"experiment={name}")
    assert {"assets", "prompts", "dense", "oracle", "calibration", "evaluation", "figures", "publish"} <= set(jobs)


def test_no_options_means_the_default_experiment(stubbed):
    command = [sys.executable, "-m", "snakemake", "-n"]
    done = subprocess.run(command, cwd=stubbed.root, env=stubbed.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "smollm2_135m" in done.stdout + done.stderr and "total" in done.stdout + done.stderr


def test_both_entry_points_plan_the_same_jobs(stubbed):
    assert stubbed.planned("experiment=smoke", "-s", "workflow/Snakefile") == stubbed.planned("experiment=smoke") != {}


@pytest.mark.parametrize("file", ["Snakefile", "workflow/Snakefile"])
def test_lint_objects_only_to_the_missing_conda_environments(stubbed, file):
    said = stubbed.run("experiment=smoke", "-s", file, "--lint", code=1)
    assert set(re.findall(r"^ +\* (.+?):?$", said, re.MULTILINE)) == {
        "Specify a conda environment or container for each rule."
    }
    assert "conda" in (ROOT / "workflow/README.md").read_text()  # which says why


def test_rules_are_formatted():
    command = [str(Path(sys.executable).with_name("snakefmt")), "--check", "Snakefile", "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_job_tracks_one_string_its_slice(finished):
    records = [
        json.loads(path.read_text()) for path in (finished.root / ".snakemake/metadata").glob("**/*") if path.is_file()
    ]
    oracles = [record for record in records if record.get("rule") == "oracle"]
    assert oracles
    for record in oracles:
        (param,) = record["params"]
        assert json.loads(param.strip("'"))["window"] == {"recent": 128, "sink": 16}
