"""A task that cannot be drawn at its length: its jobs end at once, other tasks go on, and what shows them says so."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from headscope.errors import LengthError
from headscope.figures.common import style
from headscope.pipeline.commands import benchmark, stage
from headscope.pipeline.commands import plan as plan_command
from headscope.pipeline.plan import plan
from headscope.pipeline.plan.node import Node
from headscope.pipeline.plan.unfinished import unfinished
from headscope.pipeline.store.left_out import read
from headscope.pipeline.store.verify import verify
from headscope.pipeline.tracking.record import read_record

ROOT = Path(__file__).parents[2]
OPTIONS = ["experiment=smoke", "benchmark.ruler.lengths=[640]", "figure=[score_tasks,quality,head_map]"]
OPTIONS += ["criterion=[dense,oracle,static,static_oracle,lost_output]", "calibration.targets=[0.5]"]
OPTIONS += ["benchmark.ruler.samples.evaluation=1", "benchmark.ruler.samples.calibration=1"]
DRAWN, THREE = "benchmark.ruler.tasks=[niah_single_1,fwe]", "benchmark.ruler.tasks=[niah_single_1,fwe,cwe]"
REASON = r"task cwe at length 640: its shortest prompt has \d+ tokens with this tokenizer, answer included; choose"
SENTENCE = "Left out of ruler at 640 tokens, in no mean or threshold there: cwe (needs {:,})."


def make(node: Node, results: Path) -> Path:
    out = results / node.address
    if not out.exists():
        stage.run(node.stage, json.loads(node.spec), out, [results / parent.address for parent in node.parents])
    return out


def planned(results: Path, *options: str) -> plan.Plan:
    return plan.build([*OPTIONS, f"results={results}", *options], ROOT)


def fits(results: Path, tasks: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Every calibration.json by criterion and task."""
    nodes = planned(results, tasks).nodes["calibration"].values()
    files = [results / node.address / "calibration.json" for node in nodes]
    keys = [tuple(json.loads(node.spec)[name] for name in ("criterion", "task")) for node in nodes]
    return {key: json.loads(file.read_text()) for key, file in zip(keys, files, strict=True) if file.exists()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole experiment with cwe, and of the one without it the calibrations that read the same masses."""
    folder = tmp_path_factory.mktemp("results")
    for node in planned(folder, THREE):
        make(node, folder)
    for node in planned(folder, DRAWN).nodes["calibration"].values():
        if all((folder / parent.address).exists() for parent in node.parents):
            make(node, folder)
    return folder


def test_jobs_of_the_task_are_done_and_sound_and_hold_no_rows(results: Path) -> None:
    experiment = planned(results, THREE)
    [reason] = experiment.left_out()
    folders = [node for node in experiment if read(results / node.address)]
    stages = {"prompts", "dense", "probes", "oracle", "margins", "calibration", "evaluation"}
    assert {node.stage for node in folders} == stages and len(folders) == 7
    missing = unfinished(experiment)
    for node in folders:
        assert json.loads(node.spec)["task"] == "cwe" and read(results / node.address) == reason
        assert node.address not in missing and list(verify(results / node.address)) == []
        if node.stage == "evaluation":
            assert pd.read_parquet(results / node.address / "rows.parquet").empty


def test_the_others_are_calibrated_as_if_it_were_not_there_and_the_fit_names_it(results: Path) -> None:
    without, fitted = fits(results, DRAWN), fits(results, THREE)
    assert fitted.pop(("static_oracle", "cwe")) == {}
    # By the other tasks, which were drawn; and margins, which probes of all tasks decide.
    assert set(fitted) - set(without) == {("static", "cwe"), ("lost_output", None)}
    for key, fit in without.items():
        assert fit["left_out"] == []
        assert fitted[key] == {**fit, "left_out": [] if key[0] == "static_oracle" else ["cwe"]}


def test_a_calibration_without_any_task_is_one_error_by_name(tmp_path: Path) -> None:
    message = f"^criterion oracle, calibrated at 640 tokens: no task to read is left: {REASON} .*; left out too: vt$"
    with pytest.raises(LengthError, match=message):
        for node in planned(tmp_path, "benchmark.ruler.tasks=[cwe,vt]", "criterion=[oracle]"):
            make(node, tmp_path)


def test_figures_have_no_row_of_it_and_name_it(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, footers = planned(results, THREE).nodes["figures"].values(), []
    monkeypatch.setattr(style, "save", lambda figure, *_: footers.append(figure.texts[-1].get_text()))
    for node in nodes:
        figure = json.loads(node.spec)["figure"]
        table = pd.read_csv(results / node.address / f"{figure}.csv")
        assert len(table) and "cwe" not in table.to_csv()
        stage.run("figures", json.loads(node.spec), results / figure, [results / each.address for each in node.parents])
    [reason] = planned(results, THREE).left_out()
    assert len(footers) == 3
    for footer in footers:
        assert "ruler: 2 tasks, 1 prompt a task" in footer
        assert SENTENCE.format(reason.needs) in footer.replace("\n", " ")


def test_plan_export_and_tracking_name_it(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    options, experiment = [*OPTIONS, f"results={results}", THREE], planned(results, THREE)
    line = f"left out {experiment.left_out()[0].reason}\n"
    assert plan_command.main(options) == 0 and line in capsys.readouterr().out
    assert benchmark.main(["export", str(tmp_path / "exported"), *options]) == 0 and line in capsys.readouterr().out
    assert {file.name.split(".")[0] for file in tmp_path.rglob("*.jsonl")} == {"niah_single_1", "fwe"}
    [node] = [node for node in experiment.nodes["evaluation"].values() if "cwe" in node.name]
    record = read_record(results / node.address)
    assert f"left out {record.config['left_out']}\n" == line and record.files and not record.tables


def test_an_export_without_any_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    alone = ["benchmark.ruler.tasks=[cwe]", "criterion=[oracle]"]
    for node in planned(tmp_path, *alone):
        if node.stage in ("assets", "prompts"):
            make(node, tmp_path)
    with pytest.raises(LengthError, match=f"^nothing to export: {REASON}"):
        benchmark.main(["export", str(tmp_path / "exported"), *OPTIONS, f"results={tmp_path}", *alone])
    assert not (tmp_path / "exported").exists()


def test_a_footer_tells_lengths_and_seeds_apart() -> None:
    ruler = {"tasks": ["fwe", "cwe", "vt"], "lengths": [512, 1024], "most": "", "samples": 2}
    absent = [("cwe", 512, 1, 1060), ("cwe", 512, 2, 1061), ("vt", 512, 1, None)]
    absent += [("cwe", 1024, 1, 1060), ("cwe", 1024, 2, 1061)]
    left_out = [dict(zip(("task", "length", "seed", "needs"), each, strict=True), benchmark="ruler") for each in absent]
    figure = Figure(figsize=(6.8, 3))
    style.finish(figure, {"model": "m", "benchmarks": {"ruler": ruler}, "seed": [1, 2], "left_out": left_out})
    cwe = "cwe (seed 1, needs 1,060), cwe (seed 2, needs 1,061)"
    assert figure.texts[-1].get_text().replace("\n", " ") == (
        "m; ruler: 2 tasks, 2 prompts a task and seed; data seeds 1, 2. "
        f"Left out of ruler at 512 tokens, in no mean or threshold there: {cwe}, vt (seed 1). "
        f"Left out of ruler at 1,024 tokens, in no mean or threshold there: {cwe}."
    )
