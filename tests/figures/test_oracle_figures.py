"""Figures from oracle tables: map, mass fit, ROC, label errors."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import synthetic_tables as fake

from headscope.figures import head_map, label_errors, mass_fit, roc
from headscope.figures.common.node import Setting
from headscope.figures.common.tables import Tables
from headscope.heads import quality

AT = Setting("ruler", 1024)


def pairs(tables, estimator):
    """Exact and predicted log-odds, heads and weights of all pairs."""
    blocks = list(tables.blocks(AT, [estimator]))
    exact = np.concatenate([block.local - block.bulk for block in blocks])
    predicted = np.concatenate([block.local - block.estimates[estimator] for block in blocks])
    return exact, predicted, np.concatenate([block.heads for block in blocks])


def test_the_map_is_the_share_below_the_oracles_threshold(tables, title):
    figure, table = head_map.draw(tables, title, target=0.65)
    exact, _, heads = pairs(tables, "gaussian_prompt")
    long = exact < tables.oracle_threshold(AT, 0.65)[0]
    expected = [long[heads == head].mean() for head in range(12)]
    np.testing.assert_allclose(table["long_share"], expected)
    image = figure.subfigs[0].axes[0].images[0].get_array() if figure.subfigs else None
    np.testing.assert_allclose(np.asarray(image).T.ravel(), expected)
    assert (table["lowest"] <= table["long_share"]).all() and (table["long_share"] <= table["highest"]).all()


def test_a_head_that_never_changes_is_steady_and_one_that_does_swings(tables, title):
    _, table = head_map.draw(tables, title, steady=0.1)
    for row in table.itertuples():
        steady = {"steady local": row.long_share <= 0.1, "steady long": row.long_share >= 0.9}
        assert steady.get(row[table.columns.get_loc("class") + 1], 0.1 < row.long_share < 0.9)


def test_mass_statistics_are_those_of_all_pairs(tables, title):
    _, table = mass_fit.draw(tables, title, resamples=50)
    exact, predicted, _ = pairs(tables, "gaussian_random_words")
    blocks = list(tables.blocks(AT, ["gaussian_random_words"]))
    bulk = np.concatenate([block.bulk.ravel() for block in blocks])
    error = (exact - predicted).ravel()
    statistics = table[table["estimator"] == "gaussian_random_words"].set_index("part")["value"]
    assert statistics["bias"] == pytest.approx(error.mean())
    assert statistics["RMSE"] == pytest.approx(np.sqrt((error**2).mean()))
    assert statistics["correlation"] == pytest.approx(np.corrcoef(bulk, bulk + error)[0, 1])
    cells = table[(table["part"] == "histogram") & (table["estimator"] == "gaussian_prompt")]
    assert cells["share"].sum() == pytest.approx(1)


def test_gaussian_scores_lie_on_the_diagonal_of_the_qq_plot():
    rows = [{"layer": 0, "head": head, "query": 9, "mean": 5.0, "std": 2.0, "n": 100,
             "quantiles": (5 + 2 * mass_fit.NORMAL * stretch).tolist()}
            for head, stretch in enumerate([1.0, 1.5, 3.0])]  # fmt: skip
    quantiles = mass_fit.typical_head(pa.Table.from_pylist(rows))
    assert quantiles["head"].unique().tolist() == [1]
    np.testing.assert_allclose(quantiles["standardised"], 1.5 * quantiles["normal"], atol=1e-5)


def test_binned_auc_equals_the_exact_one_pooled_and_within_heads(tables, title):
    _, table = roc.draw(tables, title, target=0.65, resamples=50)
    exact, predicted, heads = pairs(tables, "gaussian_prompt")
    long = exact < tables.oracle_threshold(AT, 0.65)[0]
    ranking = quality.Ranking.of(-predicted)
    qada = table[table["criterion"] == "qada"].groupby("scope")["auc"].first()
    assert qada["pooled"] == pytest.approx(quality.auc(ranking.counts(long)), abs=2e-3)
    assert qada["within heads"] == pytest.approx(quality.auc_within_heads(ranking, long, heads), abs=2e-3)
    static = table[table["criterion"] == "static"].groupby("scope")["auc"].first()
    assert static["pooled"] > 0.6 and static["within heads"] == 0.5


def test_curves_rise_and_the_interval_holds_the_area(tables, title):
    _, table = roc.draw(tables, title, resamples=100)
    for _, curve in table.groupby(["scope", "criterion"]):
        assert (curve["true_rate"].dropna().diff().dropna() >= 0).all()
    pooled = table[table["scope"] == "pooled"]
    assert ((pooled["low"] <= pooled["auc"]) & (pooled["auc"] <= pooled["high"])).all()


def test_huge_predictions_stay_in_order_of_size():
    cells = roc._bin(np.array([-1e9, -50.0, -1.0, 0.0, 1.0, 50.0, 1e3, 1e9]))
    assert (np.diff(cells) > 0).all() and cells[0] == 0 and cells[-1] == roc.BINS - 1


def test_too_few_pairs_leave_the_within_head_panel_empty(tmp_path, title):
    tables = fake.experiment(tmp_path, {"fwe": 60.0}, samples=1, layers=2, heads=2, queries=3)
    figure, table = roc.draw(tables, title, resamples=10)
    figure.draw_without_rendering()
    assert (table.loc[table["scope"] == "within heads", "heads"] == 0).all()


def test_label_errors_count_what_a_loop_counts():
    rng = np.random.default_rng(3)
    exact, predicted = rng.normal(1, 3, 500), rng.normal(1, 3, 500)
    false, missed, oracle = label_errors.errors(exact, predicted)
    for k, threshold in enumerate(label_errors.THRESHOLDS):
        assert false[k] == pytest.approx(np.mean((predicted < threshold) & (exact >= threshold)))
        assert missed[k] == pytest.approx(np.mean((predicted >= threshold) & (exact < threshold)))
        assert oracle[k] == pytest.approx(np.mean(exact < threshold))


def test_a_perfect_estimator_makes_no_label_errors(tmp_path, title):
    node = fake.oracle(tmp_path, "fwe", samples=2, layers=2, heads=2, queries=5, estimators={"exact": (0.0, 0.0)})
    figure, table = label_errors.draw(Tables([], [node]), title, resamples=20)
    assert (table["share"] == 0).all() and (table["high"] == 0).all()
    assert "exact: false long" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_errors_of_the_csv_are_drawn(tables, title):
    figure, table = label_errors.draw(tables, title, resamples=20)
    panel = next(ax for ax in figure.axes if ax.get_title().startswith("fwe"))
    points = pd.concat([pd.DataFrame({"x": line.get_xdata(), "y": line.get_ydata()}) for line in panel.lines])
    expected = table[table["task"] == "fwe"].sort_values(["estimator", "error", "threshold"])
    np.testing.assert_allclose(points.to_numpy(), expected[["threshold", "share"]].to_numpy())
