"""An experiment of two benchmarks, one calibrated on the other, from assets to figures on a random model."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan

ROOT = Path(__file__).parents[2]
OPTIONS = ["experiment=smoke", "benchmark=[ruler,longbench_local]", "criterion=[dense,oracle,static,static_oracle]"]
OPTIONS += ["calibration.targets=[0.5,0.8]", "figure=[score_tasks,summary,roc]"]
OPTIONS += ["benchmark.ruler.lengths=[640]", "benchmark.longbench_local.lengths=[1500]"]
OPTIONS += ["benchmark.longbench_local.samples.evaluation=2", "benchmark.ruler.samples.calibration=1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[plan.Plan, Path]:
    results = tmp_path_factory.mktemp("results")
    planned = plan.build(OPTIONS, ROOT)
    for node in planned:
        parents = [results / parent.address for parent in node.parents]
        stage.run(node.stage, json.loads(node.spec), results / node.address, parents)
    return planned, results


def test_every_task_of_both_has_rows_named_after_its_benchmark(made):
    planned, results = made
    found = {}
    for node in planned.nodes["evaluation"].values():
        for row in pq.read_table(results / node.address / "rows.parquet").to_pylist():
            found.setdefault((row["benchmark"], row["task"]), set()).add((row["criterion"], row["index"]))
            assert 0 <= row["score"] <= 100 and row["bucket"] == "" and not row["metric_failed"]
    local = {("longbench_local", task) for task in ("lcc_local", "passage_retrieval_local")}
    assert set(found) == local | {("ruler", "niah_single_1"), ("ruler", "fwe")}
    assert all(len(rows) == 4 * 2 for rows in found.values())


def test_the_other_benchmarks_thresholds_are_used(made):
    planned, results = made
    texts = {}
    for node in planned.nodes["evaluation"].values():
        for parent in node.parents:
            if parent.stage == "calibration" and json.loads(parent.spec)["criterion"] == "oracle":
                texts[node.name] = (results / parent.address / "calibration.json").read_text()
    assert len(texts) == 4 and len(set(texts.values())) == 1
    assert json.loads(next(iter(texts.values())))["prompts"] == 2  # one of each RULER task


def test_figures_keep_the_benchmarks_apart(made):
    planned, results = made
    for node in planned.nodes["figures"].values():
        name = json.loads(node.spec)["figure"]
        table = pd.read_csv(results / node.address / f"{name}.csv")
        assert set(table["benchmark"]) == {"ruler", "longbench_local"}
