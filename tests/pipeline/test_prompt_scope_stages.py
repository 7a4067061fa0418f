"""The stages with `scope=prompt`, on the smoke experiment's random model."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_model_stages import OVERRIDES, ROOT, make, nodes, rows_of

from headscope.lab.scope import SAMPLED
from headscope.pipeline.plan import plan
from headscope.pipeline.store.tables import read_estimates, read_margins, read_masses

SCOPED = (
    "scope=prompt",
    "chunk=128",
    "calibration.targets=[0.3,0.7]",
    "criterion=[dense,local,oracle,qada,lost_output,static]",
)
TASKS = ("fwe", "niah_single_1")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """All nodes of the experiment but figures."""
    folder = tmp_path_factory.mktemp("results")
    for node in plan.build([*OVERRIDES, *SCOPED], ROOT):
        if node.stage != "figures":
            make(node, folder)
    return folder


def scoped(stage: str, **filters):
    return nodes(stage, *SCOPED, **filters)


@pytest.mark.parametrize("task", TASKS)
def test_the_dense_row_equals_the_dense_answer_and_counts_the_context(results: Path, task: str) -> None:
    [node] = scoped("dense", task=task)
    answers = {row["id"]: row for row in pq.read_table(results / node.address / "answers.parquet").to_pylist()}
    [oracle] = scoped("oracle", task=task)
    last = {masses.prompt: masses.bulk_size.max() for masses in read_masses(results / oracle.address, "evaluation")}
    rows = rows_of(results, task, *SCOPED)
    assert len(rows) == 2 * (2 + 4 * 2)
    for row in (row for row in rows if row["criterion"] == "dense"):
        assert (row["tokens"], row["stop"]) == (answers[row["prompt"]]["tokens"], answers[row["prompt"]]["stop"])
        # A query's bulk is as large as there are queries with a bulk up to it; the sample may end one before the last.
        assert row["sparsity"] == 0 and 0 <= row["queries"] - last[row["prompt"]] <= 1
    assert {row["sparsity"] for row in rows if row["criterion"] == "local"} == {1.0}


@pytest.mark.parametrize("task", TASKS)
def test_masses_are_those_of_a_sample_over_the_whole_prompt(results: Path, task: str) -> None:
    [node] = scoped("oracle", task=task)
    for split in ("evaluation", "calibration"):
        for masses in read_masses(results / node.address, split):
            first = masses.layer == masses.layer[0]
            assert first.sum() == SAMPLED and (masses.bulk_size > 0).all()
            assert {*masses.segment} >= {"context", "prefix", "answer"} and masses.segment[first][0] == "context"
            assert np.ptp(np.diff(masses.query[first])) <= 1 and (masses.segment == "context").mean() > 0.5
            found = read_estimates(results / node.address, "gaussian_prompt", {masses.prompt})[masses.prompt]
            assert np.isfinite(found).all() and found.shape == masses.bulk.shape
    [recorded] = scoped("margins", task=task)
    for margins in read_margins(results / recorded.address, "qada", "evaluation"):
        masses = next(m for m in read_masses(results / node.address, "evaluation") if m.prompt == margins.prompt)
        np.testing.assert_array_equal(margins.query, masses.query)
        np.testing.assert_allclose(margins.exact, masses.local - masses.bulk, atol=1e-3)


def test_labels_in_decoding_are_about_as_sparse_as_calibration_saw(results: Path) -> None:
    rows = [row for task in TASKS for row in rows_of(results, task, *SCOPED)]
    for criterion in ("oracle", "qada", "lost_output"):
        [node] = scoped("calibration", criterion=criterion)
        sparsity = json.loads((results / node.address / "calibration.json").read_text())["sparsity"]
        for target in (0.3, 0.7):
            decoded = [row["sparsity"] for row in rows if (row["criterion"], row["target"]) == (criterion, target)]
            assert len(decoded) == 4
            assert np.mean(decoded) == pytest.approx(sparsity[str(target)], abs=0.02)
    static = [row["sparsity"] for row in rows if (row["criterion"], row["target"]) == ("static", 0.7)]
    assert static == [6 / 8] * 4  # the nearest share of eight heads
