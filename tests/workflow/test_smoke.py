"""The smoke experiment for real, on a random model: figures, report, and what is computed again after a change."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from project import Project

ROWS = ("--until", "evaluation")
"""Where figures are not looked at."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A copy of the project in which `headscope run experiment=smoke` has ended; and its last words."""
    project = Project(tmp_path_factory.mktemp("smoke"))
    said = headscope(project, "run", "experiment=smoke", "--", "-c2")
    return project, said


def headscope(project, *words, code=0):
    command = [sys.executable, "-m", "headscope", *words]
    done = subprocess.run(command, cwd=project.root, env=project.environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def evaluations(project):
    """Rows of each evaluation folder, and how many of them were computed and reused."""
    found = {}
    for folder in (project.root / "results/evaluation").iterdir():
        rows, seconds = (pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("rows", "seconds"))
        counts = [sum(row[name] for row in seconds) for name in ("rows", "reused")]
        found[folder.name] = (rows, *counts)
    return found


def keyed(rows):
    return {(row["prompt"], row["criterion"], str(row["target"])): row for row in rows}


def test_one_command_ends_in_figures_and_a_report(smoke):
    project, said = smoke
    figures = project.root / "results/figures/smoke"
    assert len([path for path in figures.iterdir() if path.suffix in (".pdf", ".png", ".csv")]) == 21
    report = (figures / "report.html").read_text()
    assert "01 score_bytes" in report and "02 score_tasks" in report and len(report) > 1_000_000
    assert "headscope run experiment=smoke" in report
    assert "jobs in " in said and " left\n" in said
    assert f"report   {figures / 'report.html'}" in said.splitlines()


def test_all_results_verify(smoke):
    project, _ = smoke
    said = headscope(project, "verify", "experiment=smoke")
    assert "24 results, " in said and ": 0 damaged, 0 unknown, 0 of older code" in said
    assert "plan: 31 of 31 present" in said


def test_one_criterion_more_computes_its_rows_only(smoke):
    project, _ = smoke
    before = evaluations(project)
    project.run("experiment=smoke criterion.qada.estimator.covariance=diagonal", "--quiet", "all", *ROWS)
    for name, (rows, computed, reused) in evaluations(project).items():
        if name not in before:
            prompts = len({row["prompt"] for row in rows})
            assert reused >= prompts * 22  # all but qada's five targets; equal thresholds may share those too
            assert computed <= prompts * 5


def test_a_metrics_code_gives_new_scores_without_new_text(smoke):
    project, _ = smoke
    before = evaluations(project)
    project.append(
        "src/headscope/benchmarks/ruler/metrics.py", "\n\ndef score(row, prediction):\n    return Score(7.0)\n"
    )
    assert project.planned() == {"evaluation": 1, "figures": 2, "publish": 7}
    project.run("experiment=smoke", "--quiet", "all", *ROWS)
    new = {name: found for name, found in evaluations(project).items() if name not in before}
    assert len(new) == 2
    old = {(key, row["text"]) for rows, *_ in before.values() for key, row in keyed(rows).items()}
    for rows, computed, _ in new.values():
        assert computed == 0
        assert {row["score"] for row in rows} == {7.0}
        assert all((key, row["text"]) in old for key, row in keyed(rows).items())


def test_a_run_killed_in_the_middle_of_evaluation_ends_like_an_undisturbed_one(smoke, tmp_path_factory):
    undisturbed, _ = smoke
    project = Project(tmp_path_factory.mktemp("killed"))
    earlier = shutil.ignore_patterns("evaluation", "figures")
    shutil.copytree(undisturbed.root / "results", project.root / "results", ignore=earlier)
    results = project.root / "results"
    process = subprocess.Popen(
        project.command("experiment=smoke"),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (kept := shards(results)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert kept and not list(results.glob("evaluation/[!.]*/*"))
    before = {shard: shard.read_bytes() for shard in shards(results)}
    assert len(before) < 4
    project.run("experiment=smoke", *ROWS)
    assert {shard: shard.read_bytes() for shard in before} == before
    made = [folder.name for folder in (results / "evaluation").glob("[!.]*--*")]
    assert len(made) == 2
    for name in made:
        rows = [root / "results/evaluation" / name / "rows.parquet" for root in (project.root, undisturbed.root)]
        assert rows[0].read_bytes() == rows[1].read_bytes()


def shards(results):
    """Finished batches of the evaluation."""
    return list(results.glob("cells/evaluation/*/*/*.json"))


def test_a_task_that_cannot_be_drawn_is_left_out_and_named_everywhere(smoke):
    """The worked example of cwe alone takes more than 1,024 tokens with the tiny model's tokenizer."""
    project, _ = smoke
    options = ["experiment=smoke", "benchmark.ruler.tasks=[niah_single_1,fwe,cwe]", "criterion=[dense,oracle]"]
    options += ["figure=[score_tasks]", "calibration.targets=[0.5]"]
    said = headscope(project, "run", *options, "--", "-c2")
    reason = "task cwe at length 1024: its shortest prompt has "
    last = [line for line in said.splitlines() if line.startswith("left out ")]
    assert len(last) == 1 and last[0].startswith(f"left out {reason}")
    figures = project.root / "results/figures/smoke"
    assert "cwe" not in (figures / "score_tasks.csv").read_text()
    report = (figures / "report.html").read_text()
    assert "<strong>Left out</strong>" in report and reason in report and "system-message" not in report
    assert project.planned(" ".join(options)) == {}
    assert ": 0 damaged" in headscope(project, "verify", *options)
