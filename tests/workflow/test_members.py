"""New criteria, estimators, outlier rules, selectors, figures: each is a file and a YAML, and smoke runs with them."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from project import Project

MEMBERS = Path(__file__).parent / "members"
FILES = {
    "criterion": "heads/criteria/doubled.py",
    "estimator": "heads/estimators/centre.py",
    "outlier_rule": "heads/outliers/every_other.py",
    "selector": "heads/selectors/first_keys.py",
    "figure": "figures/row_count.py",
}
YAMLS = {
    "criterion/twice.yaml": """\
# @package criterion.twice
defaults:
  - /estimator@estimator: half_centre
  - /outliers@outliers: every_other
kind: doubled
calibrated_on: calibration
""",
    "criterion/first.yaml": """\
# @package criterion.first
defaults:
  - /selector@selector: every_second
kind: dense
""",
    "selector/every_second.yaml": "kind: first_keys\nevery: 2\n",
    "estimator/half_centre.yaml": "name: half_centre\nkind: centre\nfactor: 0.5\n",
    "outliers/every_other.yaml": "rule: every_other\ncount: 8\n",
    "figure/row_count.yaml": "# @package figure.row_count\nparams: {colour: grey}\n",
}
SMOKE = "experiment=smoke criterion=[dense,twice,first] figure=[row_count] calibration.targets=[0.5]"
SMOKE += " calibration.rule=kv_bytes"
SMOKE += " benchmark.ruler.tasks=[fwe] benchmark.ruler.samples.evaluation=1 benchmark.ruler.samples.calibration=1"


def test_members_of_one_file_and_one_yaml_each_run_in_the_whole_workflow(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for member, file in FILES.items():
        shutil.copy2(MEMBERS / f"{member}.py", project.root / "src/headscope" / file)
    for file, text in YAMLS.items():
        (project.root / "conf" / file).write_text(text)
    project.run(SMOKE, "--quiet", "all")
    project.run(SMOKE, "--quiet", "all", "--report", "report.html")
    results = project.root / "results"
    [rows] = results.glob("evaluation/*/rows.parquet")
    rows_of = {row["criterion"]: row for row in pq.read_table(rows).to_pylist()}
    assert rows_of["dense"]["sparsity"] == 0 and 0 < rows_of["twice"]["sparsity"] < 1
    assert 0.45 < rows_of["first"]["kv_bytes"] <= 0.5
    [margins] = results.glob("margins/*/spec.yaml")
    assert "factor: 0.5" in margins.read_text() and "rule: every_other" in margins.read_text()
    assert "covariance" not in margins.read_text()
    drawn = pd.read_csv(results / "figures/smoke/row_count.csv")
    assert drawn.values.tolist() == [["dense", 1], ["first", 1], ["twice", 1]]
    assert "row count" in (project.root / "report.html").read_text()
