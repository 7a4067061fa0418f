"""`headscope benchmark score`: official files as they are, fields of every type, and prompts missing or double."""

import csv
import json
import os
import random
import time

import pytest

from headscope import __main__ as cli
from headscope.benchmarks.longbench.overall import TASKS_OF_MEAN as SUBSETS
from headscope.benchmarks.ruler.overall import TASKS_OF_MEAN as RULER_TASKS
from headscope.pipeline.commands.benchmark_averages import summary
from headscope.pipeline.commands.benchmark_score import TaskScore

RULER = {"index": 0, "pred": "111", "input": "a text", "outputs": ["111"], "others": {}, "truncation": -1, "length": 9}
LONG = {"pred": "7", "answers": ["7"], "all_classes": None, "length": 5000}
TREC = {**LONG, "pred": "City", "answers": ["City"], "all_classes": ["City", "Date"]}
V2 = {
    **{"_id": "a", "domain": "d", "difficulty": "easy", "length": "short", "answer": "B", "judge": True},
    **{"response": "The correct answer is (B).", "pred": "B"},
}
ROWS = {
    "vt": RULER,
    "qasper": LONG,
    "qasper_e": LONG,
    "trec": TREC,
    "passage_count": LONG,
    "gov_report": LONG,
    "v2": V2,
}


@pytest.fixture
def score(tmp_path, capsys):
    """Score files of rows below a fresh folder: the status, the scores by task and bucket, all that was printed."""

    def call(files: dict[str, list[dict]], prompts: dict[str, list[dict]] | None = None) -> tuple[int, dict, str]:
        for folder, content in (("p", files), ("q", prompts or {})):
            for name, rows in content.items():
                file = tmp_path / folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        table = tmp_path / "table.csv"
        table.unlink(missing_ok=True)
        options = [] if prompts is None else ["--prompts", str(tmp_path / "q")]
        status = cli.main(["benchmark", "score", str(tmp_path / "p"), "--csv", str(table), *options])
        rows = csv.DictReader(table.read_text().splitlines()) if table.is_file() else ()
        return status, {(row["task"], row["bucket"]): float(row["score"]) for row in rows}, "".join(capsys.readouterr())

    return call


def test_the_files_of_all_official_scripts_are_known_by_their_places(score, tmp_path):
    """RULER's chunks are one task; `pred_e` is LongBench-E; LongBench-v2's file has the name of a model."""
    files = {
        "pred/llama/qasper.jsonl": [LONG],
        "pred_e/llama/qasper.jsonl": [LONG],
        "results/GPT-4.jsonl": [V2, {**V2, "_id": "b", "pred": None, "judge": False}],
        "ruler/4096/pred/vt-0.jsonl": [RULER],
        "ruler/4096/pred/vt-1.jsonl": [{**RULER, "input": "other"}],
        "ruler/4096/pred/repobench-p.jsonl": [LONG],
    }
    status, scores, printed = score(files)
    assert status == 0
    groups = {("qasper_e", "4-8k"): 100, ("v2", "easy"): 50, ("v2", "short"): 50}
    tasks = {("qasper", ""): 100, ("qasper_e", ""): 100, ("v2", ""): 50, ("vt", ""): 100}
    assert scores == {**tasks, **groups, ("repobench-p", ""): scores["repobench-p", ""]}
    assert "results/GPT-4: longbench: 2 of 503 prompts answered" in printed
    assert "ruler/4096/pred: ruler: 2 prompts answered; --prompts FOLDER tells of how many" in printed


@pytest.mark.parametrize(
    ("task", "fields"),
    [
        ("vt", {"pred": ["111"]}),
        ("vt", {"pred": 111}),
        ("vt", {"pred": 111.0}),
        ("vt", {"pred": None, "prediction": "111"}),
        ("vt", {"outputs": [111]}),
        ("vt", {"outputs": 111.0}),
        ("vt", {"outputs": [["111"]]}),
        ("vt", {"index": "0"}),
        ("vt", {"index": 0.0}),
        ("qasper", {"source": "arxiv"}),
        ("qasper_e", {"length": "5000"}),
        ("passage_count", {"answers": [7]}),
        ("trec", {"all_classes": "City"}),
        ("v2", {"answers": ["B"]}),
        ("v2", {"answers": "B", "pred": "The correct answer is (B)."}),
        ("qasper_e", {"dataset": "qasper"}),
        ("vt", {"task": "my own word", "headscope_format": 1}),
    ],
    ids=str,
)
def test_a_field_of_another_type_is_read_as_what_it_obviously_means(score, task, fields):
    status, scores, _ = score({f"{task}.jsonl": [{**ROWS[task], **fields}]})
    assert status == 0 and scores[task, ""] == 100


@pytest.mark.parametrize(
    ("task", "fields", "complaint"),
    [
        ("vt", {"pred": float("nan")}, "field 'pred' is NaN, not a text"),
        ("vt", {"pred": True}, "field 'pred' is true, not a text"),
        ("vt", {"pred": None}, "field 'pred' is null; write its value"),
        ("vt", {"pred": {"text": ["111"]}}, "field 'pred' is an object, not a text"),
        ("vt", {"pred": ["111", "222"]}, "field 'pred' is a list of 2, not a text"),
        ("vt", {"pred": 2.0**60}, "field 'pred' is 1.152921504606847e+18, not a text"),
        ("vt", {"prediction": "222"}, "fields 'pred' and 'prediction' differ"),
        ("vt", {"answers": ["222"]}, "fields 'outputs' and 'answers' differ"),
        ("vt", {"outputs": []}, "field 'outputs' is empty"),
        ("vt", {"outputs": ["111", ""]}, "field 'outputs' holds an empty text, which every answer matches"),
        ("vt", {"outputs": [["111", "222"]]}, "field 'outputs', item 1 is a list of 2, not a text"),
        ("vt", {"outputs": "['111']"}, "field 'outputs' is a text that looks like a list"),
        ("vt", {"index": [0]}, "field 'index' is a list of 1, not a whole number"),
        ("vt", {"id": {}}, "field 'id' is an object, not a text"),
        ("qasper", {"answers": [None, "7"]}, "field 'answers', item 1 is null, not a text"),
        ("qasper_e", {"length": "long"}, "field 'length' is 'long', not a whole number"),
        ("qasper_e", {"length": None}, "field 'length' is null, not a whole number"),
        ("qasper_e", {"bucket": "0-4K"}, "field 'bucket' is '0-4K', not 0-4k or 4-8k or 8k+"),
        ("passage_count", {"answers": ["seven"]}, "field 'answers' is 'seven', not a whole number"),
        ("trec", {"all_classes": None}, "field 'all_classes' is missing or empty"),
        ("trec", {"all_classes": ["Date"]}, "no reference is one of the 1 classes"),
        ("v2", {"answer": "(B)"}, "field 'answer' is '(B)', not A or B or C or D"),
        ("v2", {"length": "tiny"}, "field 'length' is 'tiny', not short or medium or long"),
        ("vt", {"index": -1}, "field 'index' is -1, not a whole number"),
        ("qasper_e", {"length": -5000}, "field 'length' is -5000, not a whole number"),
        ("trec", {"all_classes": ["City", "Date", "City"]}, "field 'all_classes' names 'City' twice"),
        ("trec", {"all_classes": ["City", ""]}, "field 'all_classes' names '' twice or no class by it"),
        ("vt", {"task": "niah_single_1"}, "field 'task' is 'niah_single_1', the file is named for 'vt'; rename it"),
        ("qasper", {"dataset": "hotpotqa"}, "field 'dataset' is 'hotpotqa', the file is named for 'qasper'"),
        ("vt", {"headscope_format": 2}, "field 'headscope_format' is 2, this headscope reads 1; install the one that"),
    ],
    ids=str,
)
def test_any_other_field_is_refused_by_file_line_and_field(score, task, fields, complaint):
    status, _, printed = score({f"{task}.jsonl": [ROWS[task], {**ROWS[task], **fields}]})
    assert status == 2 and printed.count("\n") == 1
    assert f"{task}.jsonl, line 2: {complaint}" in printed


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"pred": "222", "pred": "111", "outputs": ["111"]}', "is no JSON (field 'pred' is there twice)"),
        (b'{"pred": "111", "outputs": ["111"', "is no JSON (Expecting"),
        (b'{"pred": "111", "outputs": ["caf\xe9"]}', "is no JSON ('utf-8' codec can't decode"),
        (b'{"a\\nb": 1, "' + b"x" * 9000 + b'": 1}', "has none of pred, prediction; it has a b, xxx"),
    ],
    ids=["a field twice", "half a line", "Latin-1", "strange names"],
)
def test_a_damaged_line_is_refused_by_one_short_line(score, tmp_path, line, complaint):
    score({"vt.jsonl": [RULER]})
    (tmp_path / "p" / "vt.jsonl").write_bytes(json.dumps(RULER).encode() + b"\n" + line)
    status, _, printed = score({})
    assert status == 2 and printed.count("\n") == 1 and len(printed) < 500
    assert f"vt.jsonl, line 2 {complaint}" in printed


@pytest.mark.parametrize("name", ["a" * 300, "folder", "none.jsonl"])
def test_what_is_no_file_is_refused_by_one_line(tmp_path, capsys, name):
    (tmp_path / "folder" / "vt.jsonl").mkdir(parents=True)
    assert cli.main(["benchmark", "score", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_whose_name_is_no_text_is_scored(score, tmp_path):
    files = {os.fsdecode(b"x\xff/vt.jsonl"): [RULER]}
    status, scores, printed = score(files)
    assert status == 0 and scores == {("vt", ""): 100} and "x\\udcff" in printed


def test_a_reference_that_its_metric_cannot_read_is_refused_by_line(score):
    status, _, printed = score({"passage_retrieval_en.jsonl": [{**LONG, "answers": [7]}]})
    assert status == 2 and "passage_retrieval_en.jsonl, line 1: reference '7' names no paragraph" in printed


def test_a_letter_alone_is_an_answer_only_where_it_was_read_out_of_one(score):
    """Whether a model wrote just "B", which is no answer officially, or a script read it, only the row can tell."""
    row = {"id": "a", "outputs": ["B"]}
    assert score({"v2.jsonl": [{**row, "pred": "B", "response": "(B)"}]})[1]["v2", ""] == 100
    assert score({"v2.jsonl": [{**row, "response": "B"}]})[1]["v2", ""] == 0
    status, _, printed = score({"v2.jsonl": [{**row, "pred": "B"}]})
    assert status == 2 and "line 1: field 'pred' is 'B', a letter alone: write the model's whole text" in printed


def exported(tasks: tuple[str, ...], count: int) -> dict[str, list[dict]]:
    return {
        f"{task}.jsonl": [{"index": i, "id": f"{task}-{i}", "outputs": ["111"]} for i in range(count)] for task in tasks
    }


def answers(tasks: tuple[str, ...], count: int) -> dict[str, list[dict]]:
    return {f"{task}.jsonl": [{"index": i, "pred": "it is 111"} for i in range(count)] for task in tasks}


def test_an_average_needs_an_answer_to_every_exported_prompt(score):
    prompts = exported(RULER_TASKS, 2)
    _, _, printed = score(answers(RULER_TASKS, 2), prompts)
    assert "ruler: 26 of 26 prompts answered\nRULER, mean of its 13 tasks: 100.00\n" in printed
    _, scores, printed = score(answers(("vt",), 1), prompts)
    assert scores["vt", ""] == 100 and "ruler: 25 of 26 prompts answered" in printed
    assert "RULER, mean of its 13 tasks: not given, for answers are missing or double in vt\n" in printed


def test_an_average_needs_one_answer_to_every_prompt(score):
    rows = {"vt.jsonl": [*answers(("vt",), 2)["vt.jsonl"], {"id": "vt-1", "pred": "it is 111"}]}
    _, _, printed = score({**answers(RULER_TASKS, 2), **rows}, exported(RULER_TASKS, 2))
    assert "vt: double: 1 of 3 answers are to prompts that have one already, the first in" in printed
    assert "p/vt.jsonl, line 3\n" in printed and "not given, for answers are missing or double in vt\n" in printed


def test_rows_without_prompts_are_told_apart_by_id_or_by_index_text_and_references(score):
    """RULER's index repeats in needle tasks."""
    other = {**RULER, "input": "another text"}
    assert "double" not in score({"vt.jsonl": [RULER, other, {**RULER, "outputs": ["222"]}]})[2]
    assert "vt: double: 1 of 3 answers" in score({"vt.jsonl": [RULER, other, RULER]})[2]
    assert "v2: double: 1 of 2 answers" in score({"vt.jsonl": [RULER], "v2.jsonl": [V2, {**V2, "pred": None}]})[2]


def test_a_file_that_longbenchs_script_wrote_twice_has_more_rows_than_the_subset(score):
    _, _, printed = score({"qasper.jsonl": [LONG] * 201})
    assert "qasper: double: 1 of 201 answers" in printed and "qasper.jsonl, line 201" in printed
    assert "longbench: 200 of 200 prompts answered" in printed


def test_tasks_of_unequal_numbers_of_answers_have_no_average(score):
    rows = {f"{task}.jsonl": [{**RULER, "index": i} for i in range(2)] for task in RULER_TASKS}
    assert "RULER, mean of its 13 tasks: 100.00\n" in score(rows)[2]
    _, _, printed = score({"vt.jsonl": [RULER]})
    assert "not given, for its tasks have 1 to 2 answers each, so that some may be missing" in printed


def test_longbenchs_average_is_that_of_its_official_numbers_of_rows():
    tasks = [TaskScore("", "longbench", name, "", 50, 9, 0, 0, 9, 9, "") for name in SUBSETS]
    extended = TaskScore("", "longbench", "qasper_e", "", 50, 9, 0, 0, 9, 224, "")
    assert list(summary([*tasks, extended]))[-1].endswith("groups' means: 50.00")
    short = TaskScore("", "longbench", "lcc", "", 50, 9, 0, 0, 9, 10, "")
    [answered, average] = summary([*tasks[:-2], short, tasks[-1]])
    assert answered == "longbench: 189 of 190 prompts answered"
    assert average == "LongBench, mean of its groups' means: not given, for answers are missing or double in lcc"
    assert len(list(summary([extended]))) == 1


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"id": "vt-0", "index": 1}, "no exported prompt has id 'vt-0' and index '1'"),
        ({"id": "mine", "index": 1}, "no exported prompt has id 'mine' and index '1'"),
        ({"index": 1, "outputs": ["222"]}, "the references are not those of"),
        ({}, "has none of id, _id, index; it has pred"),
    ],
    ids=str,
)
def test_an_answer_belongs_to_one_exported_prompt_by_all_its_names(score, row, complaint):
    status, _, printed = score({"vt.jsonl": [{"pred": "111", **row}]}, exported(("vt",), 2))
    assert status == 2 and "vt.jsonl, line 1" in printed and complaint in printed


@pytest.mark.parametrize(
    ("second", "complaint"),
    [({"id": "vt-0"}, "has id 'vt-0' as"), ({}, "has neither 'id' nor 'index'")],
    ids=["the same id", "no name"],
)
def test_exported_prompts_have_names_of_their_own(score, second, complaint):
    prompts = {"vt.jsonl": [*exported(("vt",), 1)["vt.jsonl"], {"outputs": ["111"], **second}]}
    status, _, printed = score(answers(("vt",), 1), prompts)
    assert status == 2 and "q/vt.jsonl, line 2" in printed and complaint in printed


def test_prompts_need_no_index_and_official_ids_are_names_too(score):
    prompts = {"v2.jsonl": [{"id": "hash", "outputs": ["B"], "bucket": "long", "source": {"_id": "a"}}]}
    status, scores, _ = score({"v2.jsonl": [V2]}, prompts)
    assert status == 0 and scores == {("v2", ""): 100, ("v2", "long"): 100}


TRAPS = ("__import__('pathlib').Path('{}').touch()", "{{0.__class__}}", "%(x)s", "((a+)+)+$", "\ud800", "=1+1")


def test_the_data_of_a_row_are_never_evaluated(score, tmp_path):
    """A text means itself in every field, even where it is code, a format or a regular expression."""
    witness = tmp_path / "touched"
    for text in (trap.format(witness) for trap in TRAPS):
        same = {"pred": text, "outputs": [text], "input": text, "others": {text: text}, text: text, "id": text}
        classes = {"pred": text, "answers": [text], "all_classes": [text], "_id": text}
        status, scores, _ = score({"vt.jsonl": [same], "trec.jsonl": [classes]})
        assert status == 0 and scores == {("vt", ""): 100, ("trec", ""): 100}
        fields = ("id", "pred", "response", "answer", "difficulty", "length", "all_classes", "index", "bucket")
        for task in ("vt", "v2", "qasper_e"):
            for name in fields:
                assert score({f"{task}.jsonl": [{**ROWS[task], name: text}]})[0] in (0, 2)
        for file in (tmp_path / "p").iterdir():
            file.unlink()
    assert not witness.exists()


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "7" * 100_000, "(" * 100_000, "* " * 50_000, "The correct answer is " * 5000]
)
def test_no_text_takes_a_metric_long(score, text):
    rows = {f"{task}.jsonl": [{**row, "pred": text}] for task, row in ROWS.items() if task != "gov_report"}
    rows["passage_retrieval_en.jsonl"] = [{**LONG, "pred": text, "answers": ["Paragraph 7"]}]
    rows["lcc.jsonl"] = [{**LONG, "pred": text}]
    start = time.monotonic()
    assert score(rows)[0] == 0
    assert time.monotonic() - start < 5


VALUES = (
    *(None, True, 0, 7, -1, 1.5, 7.0, 1e300, float("nan"), float("inf"), 10**30, "", "7", " \n", "B", "short"),
    *("\ud800", "['7']", [], [[]], ["7"], ["7", "8"], [["7", "8"]], [None, "7"], {}, {"text": ["7"]}, [{"a": 1}]),
)
NAMES = ("pred", "prediction", "response", "outputs", "answers", "answer", "all_classes", "length", "bucket", "source")


def test_rows_of_random_types_are_scored_or_refused_by_one_line(score, tmp_path):
    """A right answer, or none: whatever its other fields are, a row that names its text and reference scores 100."""
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        task = rng.choice(tuple(ROWS))
        fields = {name: rng.choice(VALUES) for name in rng.sample((*NAMES, "id", "_id", "index", "difficulty"), 2)}
        status, scores, printed = score({f"{task}.jsonl": [{**ROWS[task], **fields}]})
        assert status in (0, 2), printed
        if status == 2:
            refused += 1
            assert printed.count("\n") == 1 and f"{task}.jsonl, line 1" in printed
        elif not {"pred", "outputs", "answers"} & fields.keys():
            assert scores[task, ""] == 100, (task, fields)
        (tmp_path / "p" / f"{task}.jsonl").unlink()
    assert 100 < refused < 300
