"""The first picture: shares of the dense score against KV bytes, and points that break the order of a curve."""

from itertools import combinations

import numpy as np
import pytest
import synthetic_tables as fake
from matplotlib.markers import CARETUPBASE
from matplotlib.text import Text

from headscope.figures import score_bytes, score_tasks
from headscope.figures.common import style
from headscope.figures.common.tables import Tables

NAN = float("nan")
CURVES = {
    "dense": [(NAN, 80, 1.0)],
    "local": [(NAN, 8, 0.1)],
    "qada": [(0.5, 72, 0.7), (0.9, 40, 0.3)],
    "static": [(0.5, 24, 0.6), (0.9, 40, 0.2)],
    "lost_output": [(0.5, 96, 0.8), (0.9, 80, 0.4)],
}  # criterion: target, score, KV bytes


def experiment(root, tasks, curves=CURVES, seeds=(1, 2), lengths=(1024,), noise=0.0):
    """Scores on known curves; a task adds points to all of them, and noise differs from prompt to prompt."""
    rng = np.random.default_rng(0)
    nodes = []
    for seed, length, (task, shift) in [(s, n, t) for s in seeds for n in lengths for t in tasks.items()]:
        rows = [
            {**fake.row(task, i, name, target, score + shift + noise * rng.normal(), 0.5, length, seed),
             "kv_bytes": read}
            for i in range(3) for name, points in curves.items() for target, score, read in points
        ]  # fmt: skip
        nodes.append(fake.write_evaluation(root / f"{task}-{seed}-{length}", task, rows, length))
    return Tables(nodes, [])


def drawn(tables, **options):
    """The figure, its points and its comparisons along curves."""
    figure, table = score_bytes.draw(tables, fake.title("ab"), resamples=200, **options)
    compared = table["versus"] != ""
    return figure, table[~compared], table[compared]


def test_a_point_is_the_mean_over_tasks_and_seeds_as_a_share_of_dense(tmp_path):
    figure, points, _ = drawn(experiment(tmp_path, {"a": 0, "b": 8, "hard": -70}))
    row = points[(points["criterion"] == "qada") & (points["target"] == 0.9)].iloc[0]
    assert row[["kv_bytes", "score", "share", "tasks", "prompts"]].tolist() == pytest.approx([0.3, 44, 44 / 84, 2, 12])
    line = next(box for box in figure.axes[0].containers if box.get_label() == "QAdA")[0]
    np.testing.assert_allclose(np.array(line.get_xydata(), float), [[0.7, 76 / 84], [0.3, 44 / 84]])
    ends = {text.get_text(): text.xy for text in figure.axes[0].texts}
    assert ends["QAdA"] == pytest.approx((0.3, 44 / 84)) and ends["dense"] == (1, 1)
    assert set(ends) == {"QAdA", "static", "lost output", "dense", "local"}
    assert "not in the mean: hard" in figure.texts[-1].get_text().replace("\n", " ")


def test_the_titles_name_model_length_tasks_prompts_and_seeds(tmp_path):
    title = {**fake.title("ab"), "seed": [1, 2]}
    figure, _ = score_bytes.draw(experiment(tmp_path, {"a": 0, "b": 0}), title, resamples=20)
    assert figure.axes[0].get_title() == "1,024 tokens, mean of 2 tasks, 12 prompts"
    assert "SmolLM2-135M-Instruct, data seeds 1, 2" in figure.get_suptitle()


def test_the_interval_is_paired_with_dense_and_never_below_zero(tmp_path):
    curves = {"dense": [(NAN, 80, 1)], "local": [(NAN, 0, 0.1)], "qada": [(0.5, 80, 0.5)]}
    _, points, _ = drawn(experiment(tmp_path, {"a": 0}, curves, noise=10))
    dense, local, _ = (points[points["criterion"] == name].iloc[0] for name in ("dense", "local", "qada"))
    assert (dense["low"], dense["share"], dense["high"]) == (1, 1, 1)
    assert local["low"] < local["share"] < local["high"] < 0.2


def test_a_further_mean_has_a_panel_beside_each_length_with_those_tasks_that_there_are(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "b": 8}, lengths=(1024, 2048))
    figure, points, _ = drawn(tables, means={"hard": ["b", "absent"], "none": ["absent"]})
    dense = points[points["criterion"] == "dense"].set_index(["length", "mean"])["score"]
    assert dense.to_dict() == {(n, m): s for n in (1024, 2048) for m, s in (("all tasks", 84), ("hard", 88))}
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["1,024 tokens, mean of 2 tasks, 12 prompts", "1,024 tokens, hard, mean of 1 task, 6 prompts"]
    assert len(titles) == 4 and "Hard: b, absent." in figure.texts[-1].get_text().replace("\n", " ")


def test_points_out_of_order_are_named_with_their_intervals(tmp_path):
    figure, _, compared = drawn(experiment(tmp_path, {"a": 0}))
    broken = compared[compared["verdict"] == "better"].set_index(["criterion", "target", "versus", "versus_target"])
    assert set(broken.index) == {("lost_output", 0.5, "dense", 0), ("static", 0.9, "static", 0.5)}
    assert broken["share"].tolist() == pytest.approx([0.2, 0.2])
    words = figure.texts[-2].get_text().replace("\n", " ")
    assert "lost output at 0.5 reads less than dense and scores +20 % of dense [+20, +20]." in words
    assert "static at 0.9 reads less than static at 0.5 and scores +20 % of dense [+20, +20]." in words
    assert "qada" not in set(broken.reset_index()["criterion"])


def test_a_point_that_reads_more_than_dense_and_scores_less_is_out_of_order(tmp_path):
    curves = {"dense": [(NAN, 80, 1)], "qada": [(0.5, 60, 1.1)]}
    figure, _, _ = drawn(experiment(tmp_path, {"a": 0}, curves))
    assert "dense reads less than QAdA at 0.5 and scores +25 %" in figure.texts[-2].get_text().replace("\n", " ")


def test_an_order_that_the_interval_does_not_show_is_not_named(tmp_path):
    curves = {"dense": [(NAN, 50, 1)], "qada": [(0.5, 51, 0.5)]}
    figure, _, compared = drawn(experiment(tmp_path, {"a": 0}, curves, noise=20))
    assert set(compared["verdict"]) == {"inconclusive"}
    assert not any("Out of order" in text.get_text() for text in figure.texts)


def test_many_points_out_of_order_are_counted(tmp_path):
    curves = {"dense": [(NAN, 30, 1)], "qada": [(0.1 * i, 30 + 10 * i, 1 - 0.1 * i) for i in range(1, 4)]}
    figure, _, _ = drawn(experiment(tmp_path, {"a": 0}, curves))
    assert figure.texts[-2].get_text().endswith("Out of order, too: 3 pairs of the table.")


def test_names_of_curves_that_end_together_do_not_overlap(tmp_path):
    curves = {"dense": [(NAN, 80, 1)], **{name: [(0.5, 40, 0.5)] for name in ("oracle", "qada", "static", "local")}}
    with style.applied():
        figure, _, _ = drawn(experiment(tmp_path, {"a": 0}, curves))
        figure.canvas.draw()
    [ax] = figure.axes
    names = [text for text in ax.texts if text.get_text() != "dense"]
    places = sorted(ax.transData.transform((0, text.xyann[1]))[1] for text in names)
    height = max(Text.get_window_extent(text).height for text in names)  # an annotation's own has its leader, too
    assert len(places) == 4 and min(np.diff(places)) > height


def test_lines_from_names_to_the_ends_of_curves_do_not_cross(tmp_path):
    near = {name: [(0.5, 8 + place % 3, 0.05 * place)] for place, name in enumerate(style.CRITERIA)}
    curves = {**near, "dense": [(NAN, 80, 1)], "local": [(NAN, 8, 0.02)]}
    with style.applied():
        figure, _, _ = drawn(experiment(tmp_path, {"a": 0}, curves))
        figure.canvas.draw()
    ends = [text for text in figure.axes[0].texts if text.get_text() != "dense"]
    data, names = figure.axes[0].transData, figure.axes[0].get_yaxis_transform()
    lines = [(data.transform(text.xy), names.transform(text.xyann)) for text in ends]
    assert len(lines) == 7
    for (one, name), (other, second) in combinations(lines, 2):
        right = max(one[0], other[0])
        gaps = [np.interp(x, [one[0], name[0]], [one[1], name[1]])
                - np.interp(x, [other[0], second[0]], [other[1], second[1]]) for x in (right, name[0])]  # fmt: skip
        assert gaps[0] * gaps[1] >= -1e-6


def test_a_mean_of_tasks_that_are_all_too_hard_has_no_panel_and_no_say_in_the_axis(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "hard": -70})
    figure, points, _ = drawn(tables, means={"hard": ["hard"]})
    assert points["share"].max() == pytest.approx(2.6) and set(points["mean"]) == {"all tasks", "hard"}
    [ax] = figure.axes
    assert ax.get_ylim()[1] == 1.25
    words = figure.texts[-1].get_text().replace("\n", " ")
    assert "Not drawn, since dense scores below 20 on every task: hard at 1,024 tokens." in words
    assert "cut" not in words


def test_panels_are_drawn_if_every_task_is_too_hard(tmp_path):
    figure, _, _ = drawn(experiment(tmp_path, {"hard": -70}))
    assert len(figure.axes) == 1 and figure.axes[0].get_ylim()[1] == 1.5
    assert "Intervals are cut at 150 %, points above it are carets." in figure.texts[-1].get_text().replace("\n", " ")


def test_intervals_beyond_the_axis_are_cut_and_said_to_be(tmp_path):
    curves = {"dense": [(NAN, 30, 1)], "qada": [(0.5, 25, 0.5)]}
    figure, points, _ = drawn(experiment(tmp_path, {"a": 0}, curves, noise=20))
    highest = figure.axes[0].get_ylim()[1]
    assert points["share"].max() < highest < points["high"].max()
    assert f"Intervals are cut at {100 * highest:.0f} %." in figure.texts[-1].get_text().replace("\n", " ")


def test_a_point_above_the_axis_of_tasks_is_a_caret_at_its_edge(tmp_path):
    figure, _ = score_tasks.draw(experiment(tmp_path, {"a": 0, "hard": -70}), fake.title("ab"), resamples=20)
    carets = [
        (ax.get_title().split("\n")[0], *np.ravel(line.get_xydata()).round(9).tolist())
        for ax in figure.axes for line in ax.lines if line.get_marker() == CARETUPBASE
    ]  # fmt: skip
    assert carets == [("hard", 0.8, 1.25)]


def test_the_table_of_tasks_has_every_seed_and_the_mean_of_each_benchmark(tmp_path):
    tables = experiment(tmp_path, {"a": 0, "b": 8})
    _, table = score_tasks.draw(tables, fake.title("ab"), resamples=20)
    dense = table[table["criterion"] == "dense"].set_index(["task", "seed"])
    of_tasks = {(task, seed): score for task, score in (("a", 80), ("b", 88)) for seed in ("all", "1", "2")}
    assert dense["score"].to_dict() == {("mean", "all"): 84, **of_tasks}
    assert dense.loc[("a", "1"), "prompts"] == 3


def test_the_table_says_where_the_criteria_decided(tmp_path):
    tables = experiment(tmp_path, {"a": 0})
    assert set(drawn(tables)[1]["scope"]) == {"question"}
    for node in tables.evaluations:
        node.spec["chunk"] = 256
    assert set(drawn(tables)[1]["scope"]) == {"prompt"}
