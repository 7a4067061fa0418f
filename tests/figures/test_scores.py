"""Scores with intervals: task by task, and compared in the summary."""

import matplotlib
import numpy as np
import pytest
import synthetic_tables as fake

from headscope.figures import drift, score_tasks, summary
from headscope.figures.common import scores, style
from headscope.figures.common.tables import Tables

NAN = float("nan")
DIFFERENT = [("dense", NAN, 60), ("qada", 0.8, 50), ("oracle", 0.8, 60), ("static", 0.8, 70)]


def two_tasks(tmp_path, rows_of):
    nodes = [fake.write_evaluation(tmp_path / task, task, rows_of(task)) for task in ("a", "b")]
    return Tables(nodes, [])


def test_the_csv_holds_the_drawn_points(tables, title):
    figure, table = score_tasks.draw(tables, title, resamples=50)
    panel = next(ax for ax in figure.axes if ax.get_title().startswith("niah_single_1\n"))
    line = next(box for box in panel.containers if box.get_label() == "QAdA")[0]
    expected = table[(table["task"] == "niah_single_1") & (table["criterion"] == "qada")]
    np.testing.assert_allclose(line.get_xdata().astype(float), expected["kv_bytes"])
    np.testing.assert_allclose(line.get_ydata().astype(float), expected["share"])


def test_a_task_below_twenty_is_drawn_apart_and_is_in_no_mean(tables, title):
    figure, table = score_tasks.draw(tables, title, resamples=50)
    assert set(table.loc[table["hard"], "task"]) == {"vt"}
    dense = table[table["criterion"] == "dense"].set_index("task")["score"]
    assert dense["mean"] == pytest.approx((dense["niah_single_1"] + dense["fwe"]) / 2)
    panel = next(ax for ax in figure.axes if ax.get_title().startswith("vt"))
    assert matplotlib.colors.same_color(panel.get_facecolor(), style.PALE)
    assert "not in the mean" in figure.texts[-1].get_text().replace("\n", " ")


def test_only_hard_tasks_still_make_a_figure(tmp_path, title):
    hard = fake.evaluation(tmp_path / "hard", "vt", dense=0)
    _, table = score_tasks.draw(Tables([hard], []), title, resamples=20)
    assert table["hard"].all() and table["share"].isna().all()
    figure, _ = summary.draw(Tables([hard], []), title, resamples=20)
    assert "everywhere" in figure.texts[-1].get_text()


def test_rows_without_a_target_keep_none(tables, title):
    _, table = score_tasks.draw(tables, title, resamples=20)
    assert table[table["criterion"].isin(["dense", "local"])]["target"].isna().all()
    assert not table[~table["criterion"].isin(["dense", "local"])]["target"].isna().any()


def test_the_static_oracle_is_dashed_and_named_as_fitted_on_evaluation_prompts():
    look = style.look("static_oracle", [])
    assert look.line == "--" and "fitted on evaluation prompts" in look.label


def test_paired_differences_have_the_right_sign_and_verdict(tmp_path):
    def rows(task):
        return [fake.row(task, i, name, at, score + 10 * i, 0.8) for i in range(4) for name, at, score in DIFFERENT]

    tables = two_tasks(tmp_path, rows)
    _, table = summary.draw(tables, fake.title(["a", "b"]), resamples=200)
    against = table[table["versus"] == "dense"].set_index("criterion")
    assert against["verdict"].to_dict() == {"qada": "worse", "oracle": "inconclusive", "static": "better"}
    assert against.loc["qada", ["score", "low", "high"]].tolist() == [-10, -10, -10]
    assert against.loc["oracle", ["score", "low", "high"]].tolist() == [0, 0, 0]
    pair = table[(table["criterion"] == "oracle") & (table["versus"] == "qada")].iloc[0]
    assert (pair["score"], pair["verdict"]) == (10, "better")


def test_pairing_is_by_prompt_and_not_by_mean(tmp_path):
    def rows(task):
        dense = [fake.row(task, i, "dense", NAN, 100 * (i % 2), 0) for i in range(6)]
        return dense + [fake.row(task, i, "qada", 0.8, 100 * (i % 2) - 1, 0.8) for i in range(6)]

    sampled = scores.resample(two_tasks(tmp_path, rows).rows, 500)
    np.testing.assert_allclose(sampled.difference(("qada", 0.8), ("dense", 0.0)), -1)
    _, low, high = sampled.mean(sampled.values)
    assert (high - low).min() > 20


def test_prompts_of_several_seeds_are_one_stratum_of_their_task(tmp_path):
    by_seed = {seed: [fake.row("a", i, "dense", NAN, 10 * seed, 0, seed=seed) for i in range(2)] for seed in (1, 4)}
    nodes = [fake.write_evaluation(tmp_path / str(seed), "a", rows) for seed, rows in by_seed.items()]
    sampled = scores.resample(Tables(nodes, []).rows, 500)
    assert sampled.tasks == ["a"] * 4
    mean, low, high = sampled.mean(sampled.values)
    assert (mean[0], low[0], high[0]) == (25, 10, 40)


def test_the_summary_takes_the_nearest_targets_and_leaves_out_absent_pairs(tables, title):
    _, table = summary.draw(tables, title, targets=[0.6, 0.79], pairs=[["qada", "static"], ["qada", "unheard_of"]])
    assert sorted(table["target"].dropna().unique()) == [0.65, 0.8]
    assert set(table["versus"]) == {"", "dense", "static"}


def test_an_unknown_criterion_gets_a_look_of_its_own():
    names = ["oracle", "new_b", "new_a"]
    assert style.ordered(names) == ["oracle", "new_a", "new_b"]
    assert style.look("new_a", names)[1:3] != style.look("new_b", names)[1:3]


def test_each_benchmark_has_a_mean_of_its_own_and_says_what_its_scores_do_not_tell(tmp_path, title):
    shared = [fake.evaluation(tmp_path, task) for task in ("fwe", "vt")]
    scored = (("dense", NAN, 50), ("qada", 0.8, 30))
    rows = [
        {**fake.row("qasper_e", i, name, target, score + i, 0.5), "benchmark": "longbench_e", "bucket": bucket,
         "truncated": i == 0, "metric_failed": name == "qada"}
        for i, bucket in enumerate(["0-4k", "0-4k", "8k+"]) for name, target, score in scored
    ]  # fmt: skip
    other = fake.write_evaluation(tmp_path / "other", "qasper_e", rows)
    other.spec["benchmark"] = "longbench_e"
    tables = Tables([*shared, other], [])
    figure, table = score_tasks.draw(tables, title, resamples=20)
    dense = table[(table["task"] == "mean") & (table["criterion"] == "dense")].set_index("benchmark")["score"]
    assert set(dense.index) == {"ruler", "longbench_e 0-4k", "longbench_e 8k+"}
    assert (dense["longbench_e 0-4k"], dense["longbench_e 8k+"]) == (50.5, 52)
    panels = {ax.get_title() for ax in figure.axes}
    assert {f"qasper_e\n1,024 tokens, dense score {score}" for score in (50, 52)} <= panels
    footer = figure.texts[-1].get_text().replace("\n", " ")
    assert "longbench_e 0-4k: 50% of the prompts lost their middle." in footer
    assert "The metric failed on 3 answers, which score 0." in footer
    figure, differences = summary.draw(tables, title, resamples=20)
    assert set(differences["benchmark"]) == set(dense.index)
    shown = differences[(differences["versus"] != "")]
    for panel in (ax for ax in figure.axes if ax.get_title() == "Paired differences"):
        assert panel.get_xlim()[0] < shown["low"].min() and shown["high"].max() < panel.get_xlim()[1]


def test_a_difference_that_is_clear_alone_need_not_be_clear_among_many(tmp_path):
    noise = {name: np.random.default_rng(n).normal(0, 10, 20) for n, name in enumerate(["qada", *"abcdefgh"])}
    noise = {name: values - values.mean() for name, values in noise.items()}
    noise["qada"] -= 2.3 * noise["qada"].std() / 20**0.5

    def verdict(folder, *names):
        rows = [fake.row("a", i, "dense", NAN, 50, 0) for i in range(20)]
        rows += [fake.row("a", i, name, 0.8, 50 + noise[name][i], 0.8) for name in names for i in range(20)]
        tables = Tables([fake.write_evaluation(tmp_path / folder, "a", rows)], [])
        _, table = summary.draw(tables, fake.title("a"))
        return table[table["versus"] == "dense"].set_index("criterion").loc["qada", "verdict"]

    assert verdict("alone", "qada") == "worse"
    assert verdict("among_many", *noise) == "inconclusive"


def test_a_drift_among_many_has_a_wider_interval(tmp_path):
    def width(folder, lengths):
        nodes = [fake.evaluation(tmp_path / folder, "fwe", length=length) for length in lengths]
        _, table = drift.draw(Tables(nodes, []), fake.title(["fwe"]))
        row = table[(table["task"] == "mean") & (table["criterion"] == "oracle") & (table["length"] == 1024)].iloc[0]
        single = table[(table["task"] == "fwe") & (table["criterion"] == "oracle") & (table["length"] == 1024)].iloc[0]
        return row["high"] - row["low"], single["high"] - single["low"]

    (alone, single), (among, same) = width("alone", [1024]), width("among", [1024, 2048, 4096])
    assert single == pytest.approx(same) and same <= alone < among
