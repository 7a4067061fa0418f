"""Criteria as classifiers of pairs, and which measure ranks them as generation does."""

import json

import numpy as np
import pandas as pd
import pytest
import synthetic_tables as fake
import torch

from headscope.errors import ConfigError
from headscope.figures import agreement, quality
from headscope.figures.common import pairs
from headscope.figures.common.tables import Tables
from headscope.heads import quality as measures
from headscope.heads.calibration.maps import LayerMap, MarginMap

OUTLIERS = {"rule": "recent", "count": 72, "bits": 16}
CRITERIA = {
    **{name: fake.CRITERIA[name] for name in ("dense", "oracle", "static", "qada", "qada_random_words")},
    "sharp": {"kind": "qada", "calibrated_on": "calibration", "estimator": None, "outliers": OUTLIERS},
    "blunt": {"kind": "qada", "calibrated_on": "calibration", "estimator": None, "outliers": OUTLIERS},
}
MARGINS = {"sharp": lambda odds: 3 * odds + 1, "blunt": lambda odds: np.sin(odds)}
SIZES = {"samples": 3, "layers": 2, "heads": 4, "queries": 25}


def experiment(root, lengths=(1024,), tasks=("a", "b"), criteria=CRITERIA, without=()):
    tables = fake.experiment(root, dict.fromkeys(tasks, 90.0), lengths, criteria=criteria, **SIZES)
    recorded = {name: margin for name, margin in MARGINS.items() if name in criteria}
    nodes = [fake.margins(root, node, recorded) for node in tables.oracles if node.spec["task"] not in without]
    return Tables(tables.evaluations, tables.oracles, tables.calibrations, nodes)


def exact(tables):
    blocks = [block for setting in tables.settings for block in tables.blocks(setting)]
    return np.concatenate([(block.local - block.bulk).ravel() for block in blocks])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("quality"))


def row(table, name):
    return table.set_index("criterion").loc[name]


def test_recorded_margins_find_their_pairs_whatever_the_order_of_rows(tables):
    of_length = pairs.read(tables, 1024)
    np.testing.assert_allclose(of_length.judged("oracle")[0], -exact(tables), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_length.judged("sharp")[0], -3 * exact(tables) - 1, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(of_length.judged("sharp")[1], -exact(tables) / 2, rtol=1e-4, atol=1e-4)
    assert of_length.judged("qada")[1] is None
    assert len(np.unique(of_length.prompts)) == 6 and np.bincount(of_length.heads).tolist() == [150] * 8


def test_a_monotone_margin_is_as_good_as_the_oracle(tables):
    table = quality.measures_of(tables)
    for name in ("oracle", "sharp"):
        assert row(table, name)[["auc", "auc_within", "average_precision"]].tolist() == [1, 1, 1]
    best = row(table, "oracle")["lost_mass_sparsity_1pct"]
    share = np.sort(1 / (1 + np.exp(exact(tables))))
    assert best == pytest.approx(
        np.searchsorted(np.cumsum(share) / len(share), 0.01, side="right") / len(share), abs=2e-3
    )
    assert row(table, "sharp")["lost_mass_sparsity_1pct"] == pytest.approx(best, abs=1e-3)
    assert row(table, "blunt")["auc"] < row(table, "qada")["auc"] < 1


def test_a_static_list_orders_no_pair_within_a_head(tables):
    static = row(quality.measures_of(tables), "static")
    assert static["auc_within"] == 0.5 and 0.5 < static["auc"] < 1
    assert np.isnan(static["lost_energy_80"])


def test_what_calibration_fitted_for_each_head_changes_the_order(tmp_path):
    tables = experiment(tmp_path)
    before = pairs.read(tables, 1024).judged("sharp")[0]
    [node] = [node for node in tables.calibrations if node.spec["criterion"] == "sharp"]
    file = node.folder / "calibration.json"
    calibration = json.loads(file.read_text())
    for target in calibration["targets"].values():
        # A straight line for each head: its margin minus its number.
        numbered = torch.arange(8.0).view(2, 4)
        maps = {layer: LayerMap(torch.ones(4), -numbered[layer]) for layer in (0, 1)}
        target["map"] = MarginMap(maps).plain()
    file.write_text(json.dumps(calibration))
    after = pairs.read(tables, 1024)
    np.testing.assert_allclose(after.judged("sharp")[0] - before, after.heads, atol=1e-3)


def test_each_seed_is_read_with_its_own_calibration(tmp_path):
    tables = experiment(tmp_path)
    other = fake.calibration(tmp_path / "other", "static", ["a", "b"], layers=2, heads=4)
    for node in other:
        node.spec["seed"] = 7
        (node.folder / "calibration.json").write_text(
            '{"targets": {"0.8": {"layers": [0, 1], "long": [[1, 1, 1, 1], [0, 0, 0, 0]]}}}'
        )
    tables.oracles[0].spec["seed"] = tables.margins[0].spec["seed"] = 7
    both = Tables(tables.evaluations, tables.oracles, [*tables.calibrations, *other], tables.margins)
    scores = pairs.read(both, 1024).judged("static")[0].reshape(2, -1)
    assert set(scores[0]) == {0, 1} and scores[1].max() > 1


def test_a_task_without_recorded_margins_judges_no_criterion(tmp_path):
    tables = experiment(tmp_path, without=["b"])
    figure, _ = quality.draw(tables, fake.title("ab"))
    assert "Without b: no recorded margins." in figure.texts[-1].get_text().replace("\n", " ")
    assert len(np.unique(pairs.read(tables, 1024).prompts)) == 3


def test_the_csv_has_the_studys_columns_and_the_picture_its_numbers(tables):
    figure, table = quality.draw(tables, fake.title("ab"))
    assert list(table.columns) == ["criterion", "length", "scope", *quality.MEASURES]
    np.testing.assert_allclose(np.asarray(figure.axes[0].lines[0].get_xdata(), float), table["auc"])


def test_an_experiment_without_thresholds_has_no_quality(tmp_path):
    only = {"dense": fake.CRITERIA["dense"]}
    with pytest.raises(ConfigError, match="needs a criterion with thresholds"):
        quality.draw(fake.experiment(tmp_path, {"a": 90.0}, criteria=only, **SIZES), fake.title("a"))


def test_sparsity_at_lost_mass_is_the_largest_that_a_threshold_reaches():
    share = [0.0, 0.02, 0.02, 0.5]
    assert measures.sparsity_at_lost_mass(measures.Ranking.of([1, 2, 3, 4]), share, 0.01) == 0.75
    assert measures.sparsity_at_lost_mass(measures.Ranking.of([1, 2, 2, 2]), share, 0.01) == 0.25
    assert np.isnan(measures.sparsity_at_lost_mass(measures.Ranking.of([1, 1, 1, 1]), share, 0.01))


def test_lost_energy_is_a_mean_over_prompts():
    lost = np.log([1.0, 3.0, 2.0, 2.0]) / 2
    [half, most] = measures.lost_energies(measures.Ranking.of([1, 4, 2, 3]), lost, [0, 0, 1, 1], [0.5, 1.0])
    assert (half, most) == pytest.approx(((1 / 2 + 2 / 2) / 2, (4 / 2 + 4 / 2) / 2))


def test_a_measure_that_orders_as_generation_does_agrees(tmp_path):
    adaptive = {f"c{i}": {**CRITERIA["sharp"]} for i in range(5)}
    criteria = {"dense": CRITERIA["dense"], "oracle": CRITERIA["oracle"], **adaptive}
    losses = dict(zip(adaptive, (0.05, 0.2, 0.4, 0.7, 1.0), strict=True))
    noise = np.random.default_rng(0).normal(size=(10_000, 4))
    recorded = {f"c{i}": lambda odds, i=i: odds + 2 * i * noise[: len(odds)] for i in range(5)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake, "LOSS", losses)
        patch.setattr(fake, "CRITERIA", criteria)
        finished = fake.experiment(tmp_path, {"a": 90.0, "b": 90.0}, (1024, 2048), criteria=criteria, **SIZES)
    nodes = [fake.margins(tmp_path, node, recorded) for node in finished.oracles]
    tables = Tables(finished.evaluations, finished.oracles, finished.calibrations, nodes)
    _, table = agreement.draw(tables, fake.title("ab"), sparsities=[0.65, 0.8], resamples=100)
    assert list(table.columns) == ["length", "measure", "spearman", "low", "high", "criteria"]
    assert set(table["length"]) == {1024, 2048, "all"}
    right = table[table["measure"].isin(["auc", "average_precision", "lost_energy_95"])]
    assert set(right["criteria"]) == {5} and (right["spearman"] == 1).all() and (right["low"] > 0).all()


def test_a_measure_that_too_few_criteria_have_is_given_no_correlation(tables):
    _, table = agreement.draw(tables, fake.title("ab"), sparsities=[0.65, 0.8], resamples=20)
    assert table["spearman"].isna().all() and set(table.loc[table["measure"] == "lost_energy_80", "criteria"]) == {2}
    assert set(table.loc[table["measure"] == "auc", "criteria"]) == {4}


def test_ranks_are_averaged_over_lengths_of_criteria_that_all_have():
    columns = ["length", "criterion", "auc", "score_share"]
    rows = [
        (1, "a", 1, 1),
        (1, "b", 2, 2),
        (1, "c", 3, 3),
        (1, "d", 0, 9),
        (2, "a", 3, 5),
        (2, "b", 2, 6),
        (2, "c", 1, 7),
    ]
    values = dict(agreement._by_length(pd.DataFrame(rows, columns=columns), "auc"))
    assert values["all"].tolist() == [[2, 1], [2, 2], [2, 3]] and len(values[1]) == 4
