"""The examples of docs/own_criterion.md: one file and one YAML are a criterion, and nothing else is computed again."""

import re
from pathlib import Path

import pyarrow.parquet as pq
from project import Project

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
SMALL = "experiment=smoke benchmark.ruler.tasks=[niah_single_1,fwe] calibration.targets=[0.5] figure=[score_sparsity]"


def test_the_pages_criterion_runs_and_renews_nothing_else(tmp_path: Path) -> None:
    project = Project(tmp_path)
    before = project.planned(f"{SMALL} criterion=[dense,oracle]")
    project.run(f"{SMALL} criterion=[dense,oracle]")
    examples = EXAMPLE.findall((ROOT / "docs/own_criterion.md").read_text("utf-8"))
    assert len(examples) == 2
    for file, text in examples:
        (project.root / file).write_text(text, encoding="utf-8")
    assert before and project.planned(f"{SMALL} criterion=[dense,oracle]") == {}
    project.run(f"{SMALL} criterion=[dense,oracle,flat_bulk]")
    tables = [pq.read_table(path).to_pylist() for path in (tmp_path / "results/evaluation").glob("*/rows.parquet")]
    rows = [row for table in tables for row in table if row["criterion"] == "flat_bulk"]
    assert rows and all(0 < row["sparsity"] < 1 for row in rows)
