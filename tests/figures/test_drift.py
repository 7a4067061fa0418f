"""What thresholds keep where they were not fitted, and sparsity by layer."""

import numpy as np
import pytest
import synthetic_tables as fake

from headscope.errors import ConfigError
from headscope.figures import drift, layers
from headscope.figures.common.tables import Tables

NAN = float("nan")
# criterion, target, score, sparsity, sparsity of each layer
ROWS = [
    ("dense", NAN, 80, 0.0, [0, 0]),
    ("oracle", 0.65, 70, 0.75, [1, 0.5]),
    ("oracle", 0.9, 60, 0.85, [1, 0.7]),
    ("qada", 0.9, 80, 0.9, [0.8, 1]),
]


def experiment(root, tasks, lengths=(1024,), rows=ROWS, calibrations=()):
    """Prompts differ by ten points and .02 of sparsity; a task shifts its scores by the same number of points."""
    nodes = []
    for length, (task, shift) in [(n, t) for n in lengths for t in tasks.items()]:
        records = [
            {**fake.row(task, i, name, target, score + shift + 10 * i, sparsity + 0.02 * i, length, seed),
             "sparsity_layer": by_layer}
            for seed in (1, 2) for i in range(3) for name, target, score, sparsity, by_layer in rows
        ]  # fmt: skip
        nodes.append(fake.write_evaluation(root / f"{task}-{length}", task, records, length))
    return Tables(nodes, [], calibrations)


def test_drift_is_sparsity_less_target_and_loss_is_paired_with_dense(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "b": 4, "hard": -75}, lengths=(1024, 2048))
    figure, table = drift.draw(tables, fake.title("ab"), resamples=200)
    assert list(table.columns) == drift.COLUMNS and set(table["criterion"]) == {"oracle", "qada"}
    row = table.set_index(["length", "task", "criterion", "target"]).loc[2048, "mean", "oracle", 0.65]
    assert row["sparsity"] == pytest.approx(0.77) and row["drift"] == pytest.approx(0.12)
    assert 0.10 <= row["low"] < row["drift"] < row["high"] <= 0.14
    assert row["score"] == 82 and (row["lost"], row["lost_low"], row["lost_high"]) == (-10, -10, -10)
    assert row["n"] == 12 and "not in the mean: hard" in figure.texts[-1].get_text().replace("\n", " ")
    assert set(table["task"]) == {"mean", "a", "b", "hard"}
    assert table.loc[table["task"] == "hard", "n"].unique().tolist() == [6]


def test_the_panels_show_the_table(tmp_path):
    figure, table = drift.draw(experiment(tmp_path, {"a": 0, "b": 4}), fake.title("ab"), resamples=50)
    mean = table[(table["task"] == "mean") & (table["criterion"] == "oracle")]
    for ax, column in zip(figure.axes, ("drift", "lost"), strict=True):
        line = next(box for box in ax.containers if box.get_label() == "oracle")[0]
        np.testing.assert_allclose(line.get_ydata().astype(float), mean[column])
        dots = [len(dots_of.get_xdata()) for dots_of in ax.lines if dots_of.get_marker() == "."]
        assert sum(dots) == (table["task"] != "mean").sum()


@pytest.mark.parametrize("module", [drift, layers])
def test_without_a_target_there_is_nothing_to_draw(tmp_path, module):
    with pytest.raises(ConfigError, match="no criterion has a target; add one"):
        module.draw(experiment(tmp_path, {"a": 0}, rows=ROWS[:1]), fake.title("a"))


def test_layers_are_drawn_at_the_nearest_target_with_tasks_of_equal_weight(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "b": 4}, lengths=(1024, 2048))
    replaced = next(node for node in tables.evaluations if node.folder.name == "b-2048")
    rows = [{**row, "sparsity_layer": [0.0, 0.1]} for row in tables.rows.to_dict("records")
            if (row["task"], row["length"], row["index"]) == ("b", 2048, 0)]  # fmt: skip
    changed = fake.write_evaluation(tmp_path / "changed", "b", rows, 2048)
    nodes = [node for node in tables.evaluations if node is not replaced]
    figure, table = layers.draw(Tables([*nodes, changed], []), fake.title("ab"), target=0.8, resamples=100)
    assert list(table.columns) == layers.COLUMNS and set(table["target"]) == {0.9}
    sparsity = table.set_index(["length", "criterion", "layer"])["sparsity"]
    assert sparsity[1024, "oracle"].tolist() == pytest.approx([1, 0.7])
    assert sparsity[2048, "qada"].tolist() == pytest.approx([0.4, 0.55])  # 6 prompts of a, 2 of b
    images = [ax.images[0] for ax in figure.axes if ax.images]
    np.testing.assert_allclose(images[0].get_array(), [[1, 0.7], [0.5, 0.4]])


def test_the_footer_of_layers_tells_the_widest_interval(tmp_path):
    rows = [{**fake.row("a", i, "oracle", 0.8, 50, 0.5), "sparsity_layer": [0.5, float(i % 2)]} for i in range(8)]
    node = fake.write_evaluation(tmp_path / "a", "a", rows)
    figure, table = layers.draw(Tables([node], []), fake.title("a"), resamples=500)
    width = table["high"] - table["low"]
    assert width[0] == 0 and 0.3 < width[1] < 0.9
    assert f"the widest spans {width[1]:.2f}." in figure.texts[-1].get_text().replace("\n", " ")


def test_a_budget_of_bytes_drifts_in_bytes(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "b": 4})
    rows = tables.rows.assign(kv_bytes=0.7)
    tables.__dict__["rows"] = rows  # in place of the cached frame
    figure, table = drift.draw(tables, {**fake.title("ab"), "rule": "kv_bytes"}, resamples=50)
    row = table.set_index(["task", "criterion", "target"]).loc["mean", "oracle", 0.65]
    assert row["kv_bytes"] == pytest.approx(0.7) and row["drift"] == pytest.approx(0.05)
    words = [ax.get_ylabel() for ax in figure.axes] + [figure.axes[0].get_xlabel()]
    assert words == ["achieved KV bytes - target", "score - dense, points", "target KV bytes"]
