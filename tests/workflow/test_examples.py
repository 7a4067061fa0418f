"""The examples of docs/own_criterion.md: one file and one YAML are a criterion, and nothing else is computed again."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from project import Project

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
SMALL = [
    "experiment=smoke",
    "benchmark.ruler.tasks=[niah_single_1]",
    "benchmark.ruler.samples.evaluation=1",
    "benchmark.ruler.samples.calibration=1",
    "calibration.targets=[0.5]",
    "figure=[score_sparsity]",
]


def addresses(project: Project) -> set[str]:
    """The jobs of an experiment without the criterion, each with its key."""
    command = [sys.executable, "-m", "headscope", "plan", *SMALL, "criterion=[dense,oracle,qada]"]
    said = subprocess.run(command, cwd=project.root, env=project.environment, stdout=subprocess.PIPE, text=True).stdout
    return set(re.findall(r"^missing +(\S+)$", said, re.MULTILINE))


def test_the_pages_criterion_runs_and_renews_no_other_job(tmp_path: Path) -> None:
    project = Project(tmp_path)
    before = addresses(project)
    examples = EXAMPLE.findall((ROOT / "docs/own_criterion.md").read_text("utf-8"))
    assert [Path(file).name for file, _ in examples] == ["flat_bulk.py", "flat_bulk.yaml"]
    for file, text in examples:
        (project.root / file).write_text(text, encoding="utf-8")
    assert before and addresses(project) == before
    project.run(" ".join([*SMALL, "criterion=[dense,flat_bulk]"]))
    [table] = (tmp_path / "results/evaluation").glob("*/rows.parquet")
    rows = [row for row in pq.read_table(table).to_pylist() if row["criterion"] == "flat_bulk"]
    assert rows and all(0 < row["sparsity"] < 1 for row in rows)
