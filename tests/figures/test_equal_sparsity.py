"""Scores as shares of dense, interpolated to equal sparsity."""

import numpy as np
import pytest
import synthetic_tables as fake

from headscope.errors import ConfigError
from headscope.figures import equal_sparsity, score_bytes, score_tasks
from headscope.figures.common.interpolation import interpolate
from headscope.figures.common.tables import Tables

NAN = float("nan")
LINE = {"dense": [(NAN, 80.0, 0.0)], "one": [(0.6, 60.0, 0.6), (0.9, 30.0, 0.9)], "two": [(0.6, 70.0, 0.7)]}


def experiment(root, tasks, line=LINE, seeds=(1, 2), lengths=(1024,)):
    """Criteria on a known line; prompts differ by `index` points and the second seed by one point."""
    nodes = []
    for seed, length, (task, shift) in [(s, n, t) for s in seeds for n in lengths for t in tasks.items()]:
        rows = [fake.row(task, i, name, target, score + shift + i + seed, sparsity, length, seed)
                for i in range(3) for name, points in line.items() for target, score, sparsity in points]  # fmt: skip
        nodes.append(fake.write_evaluation(root / f"{task}-{seed}-{length}", task, rows, length))
    return Tables(nodes, [])


def test_scores_are_interpolated_from_dense_through_the_points_and_never_beyond(tmp_path):
    criteria = interpolate(experiment(tmp_path, {"a": 0}).rows, [0.3, 0.75, 0.95], 20).criteria
    np.testing.assert_allclose(criteria["one"][0], [72.5, 47.5, NAN])
    np.testing.assert_allclose(criteria["two"][0], [(80 + 3 / 7 * -10) + 2.5, NAN, NAN])
    assert np.isnan(criteria["one"][:, 2]).all()


def test_each_resample_interpolates_its_own_points(tmp_path):
    rows = experiment(tmp_path, {"a": 0}).rows
    noise = np.random.default_rng(0).normal(0, 0.05, len(rows))
    noisy = interpolate(rows.assign(sparsity=rows["sparsity"] + noise * (rows["sparsity"] > 0)), [0.75], 200)
    steady = interpolate(rows, [0.75], 200)
    assert (noisy.criteria["one"] - noisy.dense[:, None]).std() > 0.5
    assert (steady.criteria["one"] - steady.dense[:, None]).std() < 1e-9


def test_differences_are_paired_points_with_a_verdict_and_also_without_some_tasks(tmp_path):
    line = {**LINE, "oracle": [(0.9, 40.0, 0.9)], "qada": [(0.9, 20.0, 0.9)], "static": [(0.9, 40.0, 0.9)]}
    tables = experiment(tmp_path, {"a": 0, "b": 10}, line)
    _, table = equal_sparsity.draw(tables, fake.title("ab"), sparsities=[0.9], without=["b"], resamples=100)
    assert set(table["without"]) == {"", "b"}
    rows = table[(table["versus"] == "oracle") & (table["without"] == "")].set_index("criterion")
    assert rows.loc["qada", ["value", "low", "high", "verdict"]].tolist() == [-20, -20, -20, "worse"]
    assert rows.loc["static", ["value", "low", "high", "verdict"]].tolist() == [0, 0, 0, "inconclusive"]
    assert rows.loc["two", "verdict"] == "missing"
    shares = table[(table["versus"] == "") & (table["sparsity"] == 0.9)].set_index(["without", "criterion"])["value"]
    assert shares["b", "oracle"] == pytest.approx(42.5 / 82.5)
    assert shares["", "oracle"] == pytest.approx(47.5 / 87.5)


def test_a_missing_sparsity_is_written_into_the_picture(tmp_path):
    figure, _ = equal_sparsity.draw(experiment(tmp_path, {"a": 0}), fake.title("a"), resamples=20)
    words = {text.get_text() for text in figure.axes[0].texts}
    assert words == {"no value: 0.95", "no value: 0.8, 0.9, 0.95"}


def test_without_dense_there_is_no_share(tmp_path):
    tables = experiment(tmp_path, {"a": 0}, {"one": LINE["one"]})
    for module in (score_bytes, score_tasks, equal_sparsity):
        with pytest.raises(ConfigError, match="add criterion dense"):
            module.draw(tables, fake.title("a"), resamples=20)


@pytest.mark.filterwarnings("error")
def test_of_a_dense_score_of_zero_there_is_no_share(tmp_path):
    rows = [fake.row("a", 0, "dense", NAN, 0, 0), fake.row("a", 0, "one", 0.9, 0, 0.9)]
    tables = Tables([fake.write_evaluation(tmp_path / "a", "a", rows)], [])
    _, table = equal_sparsity.draw(tables, fake.title("a"), sparsities=[0.9], resamples=20)
    assert table["value"].isna().all()
    figure, table = score_bytes.draw(tables, fake.title("a"), resamples=20)
    assert table["share"].isna().all() and table["hard"].all()
    assert "this is no comparison" in figure.texts[-1].get_text().replace("\n", " ")
