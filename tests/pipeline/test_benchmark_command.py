"""`headscope benchmark export` and `score`: prompts for any tool, and scores of any tool's answers."""

import csv
import json
import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import load_dataset

from headscope import __main__ as cli
from headscope.benchmarks.longbench import overall as longbench_overall
from headscope.benchmarks.longbench.subsets import SUBSETS
from headscope.benchmarks.ruler import overall as ruler_overall
from headscope.errors import AssetError, ConfigError
from headscope.pipeline.commands import stage
from headscope.pipeline.commands.benchmark_score import score_files
from headscope.pipeline.plan import plan

ROOT = Path(__file__).parents[2]
OPTIONS = ["experiment=smoke", "model=tiny", "benchmark=[ruler,longbench_local]", "benchmark.ruler.lengths=[640]"]
OPTIONS += ["benchmark.longbench_local.lengths=[1500]", "benchmark.longbench_local.samples.evaluation=2"]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Assets and prompts of two benchmarks, made by their stages."""
    folder = tmp_path_factory.mktemp("results")
    planned = plan.build([*OPTIONS, f"results={folder}"], ROOT)
    for node in [*planned.nodes["assets"].values(), *planned.nodes["prompts"].values()]:
        parents = [folder / parent.address for parent in node.parents]
        stage.run(node.stage, json.loads(node.spec), folder / node.address, parents)
    return folder


@pytest.fixture(scope="module")
def exported(results, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "prompts"
    assert cli.main(["benchmark", "export", str(folder), *OPTIONS, f"results={results}"]) == 0
    return folder


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(file: Path, rows: list[dict]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_every_prompt_is_exported_in_rulers_field_names(exported):
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*.jsonl")}
    local = {f"longbench_local/1500/{task}.jsonl" for task in ("lcc_local", "passage_retrieval_local")}
    ruler = {f"ruler/640/{task}{split}.jsonl" for task in ("fwe", "niah_single_1") for split in ("", ".calibration")}
    assert files == local | ruler
    [first, second] = lines(exported / "ruler/640/niah_single_1.jsonl")
    assert (first["index"], second["index"]) == (0, 1)
    assert first["answer_prefix"].startswith(" The special magic") and first["outputs"][0] in first["input"]
    assert 0.9 * 640 <= first["length"] <= 640


def test_an_export_loads_with_datasets_offline(exported, tmp_path):
    found = load_dataset(str(exported), "ruler-640-fwe", cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in found.items()} == {"evaluation": 2, "calibration": 2}
    assert found["evaluation"]["outputs"][0] == lines(exported / "ruler/640/fwe.jsonl")[0]["outputs"]


def test_an_exported_needle_file_is_an_official_sample_file(exported, results, tmp_path):
    """What one command writes the other reads: the same prompts, without a template of their own."""
    options = ["experiment=smoke", "benchmark.ruler.lengths=[640]", f"results={results}"]
    options += ["benchmark.ruler.tasks=[niah_single_1]"]
    options += [
        "benchmark.ruler.samples.calibration=0",
        "benchmark.ruler.chat_template=false",
        "criterion=[dense,local]",
    ]
    planned = plan.build([*options, f"benchmark.ruler.source={exported}/ruler/640"], ROOT)
    planned.check()
    for node in [*planned.nodes["assets"].values(), *planned.nodes["prompts"].values()]:
        if not (results / node.address).exists():
            stage.run(
                node.stage, json.loads(node.spec), results / node.address, [results / p.address for p in node.parents]
            )
    again = tmp_path / "again"
    assert cli.main(["benchmark", "export", str(again), *options, f"benchmark.ruler.source={exported}/ruler/640"]) == 0
    before, after = (lines(folder / "ruler/640/niah_single_1.jsonl") for folder in (exported, again))
    for field in ("input", "answer_prefix", "outputs", "length"):
        assert [row[field] for row in before] == [row[field] for row in after]


def test_missing_prompts_are_made_by_snakemake_first(tmp_path, monkeypatch):
    called = []

    def run(command, cwd):
        called.append(command)
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["benchmark", "export", str(tmp_path / "out"), "experiment=smoke", f"results={tmp_path}"]) == 7
    [command] = called
    targets = command[command.index("--") + 1 :]
    assert len(targets) == 2 and all("/prompts/" in target for target in targets)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_overwritten(tmp_path, capsys):
    assert cli.main(["benchmark", "export", str(tmp_path), "experiment=smoke"]) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err


def test_answers_are_joined_to_exported_prompts_by_id_or_index(exported, tmp_path, capsys):
    rows = lines(exported / "ruler/640/niah_single_1.jsonl")
    by_id = [{"id": rows[1]["id"], "pred": f"it is {rows[1]['outputs'][0]}"}, {"id": rows[0]["id"], "pred": " \n"}]
    write(tmp_path / "ruler/640/niah_single_1.jsonl", by_id)
    code = lines(exported / "longbench_local/1500/lcc_local.jsonl")
    exact = [{"index": row["index"], "prediction": row["outputs"][0]} for row in code]
    write(tmp_path / "longbench_local/1500/lcc_local.jsonl", exact)
    table = tmp_path / "table.csv"
    assert cli.main(["benchmark", "score", str(tmp_path), "--prompts", str(exported), "--csv", str(table)]) == 0
    found = {row["task"]: row for row in csv.DictReader(table.open())}
    needle = found["niah_single_1"]
    assert (needle["score"], needle["nulls"], needle["samples"], needle["folder"]) == ("50.0", "1", "2", "ruler/640")
    assert found["lcc_local"]["score"] == "100.0"
    assert "RULER, mean of its 13 tasks: not given, for it lacks niah_single_2" in capsys.readouterr().out


def test_official_prediction_files_of_both_benchmarks_are_scored_as_they_are(tmp_path):
    ruler = [
        {"index": 8006, "pred": "12 and 34", "outputs": ["12", "34"]},
        {"index": 8006, "pred": "12", "outputs": ["12", "x"]},
    ]
    write(tmp_path / "ruler" / "niah_multivalue.jsonl", ruler)
    shared = {"all_classes": None, "answers": ["Eiffel tower", "tower"]}
    extended = [{"pred": "the tower", "length": words, **shared} for words in (3999, 4000, 8000)] + [
        {"pred": "none", "length": 8001, **shared}
    ]
    write(tmp_path / "lb" / "hotpotqa_e.jsonl", extended)
    write(
        tmp_path / "lb" / "gov_report.jsonl",
        [{"pred": "", "length": 1, **shared}, {"pred": "a tower", "length": 1, **shared}],
    )
    choice = {"answers": ["B"], "difficulty": "easy", "bucket": "short"}
    write(
        tmp_path / "v2.jsonl",
        [{"pred": "The correct answer is (B)", **choice}, {"pred": "(B)", **choice, "difficulty": "hard"}],
    )
    found = {(score.task, score.bucket): score for score in score_files(tmp_path, None)}
    assert found["niah_multivalue", ""].score == 75 and found["niah_multivalue", ""].samples == 2
    buckets = {bucket: score.score for (task, bucket), score in found.items() if task == "hotpotqa_e"}
    assert buckets == {"": 75, "0-4k": 100, "4-8k": 100, "8k+": 50}
    report = found["gov_report", ""]
    assert (report.nulls, report.failed) == (1, 1) and report.score > 0
    assert {bucket: score.score for (task, bucket), score in found.items() if task == "v2"} == {
        **{"": 50, "easy": 100, "hard": 0, "short": 50}
    }


def test_a_benchmarks_average_is_refused_while_a_task_is_missing():
    scores = {task: float(i) for i, task in enumerate(ruler_overall.TASKS_OF_MEAN)}
    assert len(scores) == 13 and ruler_overall.average({**scores, "niah_single_2_prose": 99})[1] == 6
    del scores["qa_2"]
    with pytest.raises(ConfigError, match=r"lacks qa_2$"):
        ruler_overall.average(scores)


def test_longbenchs_average_is_the_mean_of_its_groups_means():
    scores = {subset.name: 10.0 if subset.group == "code" else 40.0 for subset in SUBSETS}
    assert longbench_overall.average(scores) == ("LongBench, all 21 subsets, mean of 6 groups' means", 35.0)
    english = {subset.name: scores[subset.name] for subset in SUBSETS if subset.language == "en"}
    name, value = longbench_overall.average(english)
    assert "English 16 subsets" in name and value == 35
    with pytest.raises(ConfigError, match=r"lacks lcc$"):
        longbench_overall.average({name: score for name, score in scores.items() if name != "lcc"})


BAD = {
    "no folder": ({}, "does not exist"),
    "an empty folder": ({"x.txt": "y"}, r"holds no \*\.jsonl"),
    "another name": (
        {"niah_singel_1.jsonl": "{}"},
        "no benchmark has a task 'niah_singel_1'; a file is named by its task: did you mean 'niah_single_1'",
    ),
    "no task's name": ({"predictions.jsonl": "{}"}, "no benchmark has a task 'predictions'; .* 'vt' or 'hotpotqa'"),
    "a broken line": ({"vt.jsonl": '{"pred": "a", "outputs": ["a"]}\n{"pred'}, r"vt\.jsonl, line 2 is no JSON"),
    "brackets without end": ({"vt.jsonl": "[" * 100_000}, r"vt\.jsonl, line 1 is no JSON"),
    "no answer": (
        {"vt.jsonl": '{"outputs": ["a"]}'},
        r"vt\.jsonl, line 1 has none of pred, prediction; it has outputs",
    ),
    "no reference": (
        {"vt.jsonl": '{"pred": "a"}'},
        r"vt\.jsonl, line 1 has none of outputs, answers.*; give the exported prompts \(--prompts FOLDER\)",
    ),
    "no rows": ({"vt.jsonl": "\n"}, r"vt\.jsonl is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_predictions_that_cannot_be_scored_are_one_error_within_a_second(tmp_path, capsys, case):
    files, message = BAD[case]
    folder = tmp_path / "predictions"
    for name, text in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    start = time.monotonic()
    assert cli.main(["benchmark", "score", str(folder)]) == 2
    assert time.monotonic() - start < 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_an_answer_without_its_prompt_is_named(exported, tmp_path):
    file = write(tmp_path / "niah_single_1.jsonl", [{"index": 99, "pred": "a"}])
    with pytest.raises(AssetError, match="line 1: no exported prompt has index '99'"):
        score_files(file, exported / "ruler")
    other = write(tmp_path / "vt.jsonl", [{"index": 0, "pred": "a"}])
    with pytest.raises(AssetError, match=r"holds 0 files vt\.jsonl"):
        score_files(other, exported)
