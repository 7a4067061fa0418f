"""Official sample files: taken as they are, parted before the question, measured and counted afresh."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import ruler_sampler
from small_tokenizer import small_tokenizer

from headscope.benchmarks.registry import find, names, rows
from headscope.benchmarks.row import Request, Row
from headscope.errors import AssetError, LengthError

TOKENIZER = small_tokenizer()
LINES = 5


def official(name: str) -> list[dict[str, Any]]:
    """Lines in the official form, the index of needle tasks with its flaw: a place in the text, twice the same."""
    samples = ruler_sampler(name, 2048, 7, TOKENIZER, False)
    return [
        {
            "index": 8006 if name.startswith("niah") else i,
            "input": sample.rendering.text,
            "outputs": sample.rendering.references,
            "length": 17,
            "length_w_model_temp": 17,
            "answer_prefix": sample.rendering.answer_prefix,
        }
        for i, sample in enumerate(samples.samples("evaluation", LINES))
    ]


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def request(name: str, path: Path, length: int = 2200, evaluation: int = 3, calibration: int = 2) -> Request:
    samples = {"evaluation": evaluation, "calibration": calibration}
    return Request(name, length, 0, samples, chat_template=True, tokenizer=TOKENIZER, files={}, source=path)


def rows_of(name: str, path: Path, **options: int) -> list[Row]:
    return rows("ruler", request(name, path, **options))


@pytest.mark.parametrize("name", names("ruler"))
def test_text_references_and_prefix_are_those_of_the_file(name, tmp_path):
    lines = official(name)
    samples = rows_of(name, write(tmp_path / "samples.jsonl", lines))
    assert [(row.split, row.index) for row in samples] == [("evaluation", i) for i in range(3)] + [
        ("calibration", i) for i in range(2)
    ]
    for row, line in zip(samples, lines, strict=True):
        assert line["input"] in row.prompt.text
        assert row.prompt.text.endswith("<|im_start|>assistant\n" + line["answer_prefix"])
        assert row.prompt.text[row.prompt.prefix_offset :] == row.answer_prefix == line["answer_prefix"]
        assert row.prompt.text[row.prompt.question_offset :].startswith(line["input"].split("\n")[-1] + "<|im_end|>")
        assert row.references == line["outputs"]
        assert (row.metric, row.max_new_tokens) == (find("ruler", name).metric, find("ruler", name).max_new_tokens)
        assert row.length == len(TOKENIZER(row.prompt.text).input_ids) + row.max_new_tokens


def test_an_index_that_repeats_is_kept_aside_and_counted_afresh(tmp_path):
    samples = rows_of(
        "niah_single_1", write(tmp_path / "samples.jsonl", official("niah_single_1")), evaluation=5, calibration=0
    )
    assert [row.index for row in samples] == list(range(5))
    assert [row.source for row in samples] == [{"index": 8006, "line": line} for line in range(1, 6)]


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multivalue_prose", "vt", "cwe", "fwe", "qa_1"])
def test_a_prefix_inside_an_older_file_is_found(name, tmp_path):
    lines = official(name)
    older = [
        {"index": i, "input": line["input"] + line["answer_prefix"], "outputs": line["outputs"]}
        for i, line in enumerate(lines)
    ]
    new, old = (
        rows_of(name, write(tmp_path / f"{kind}.jsonl", content)) for kind, content in (("new", lines), ("old", older))
    )
    assert [row.prompt for row in old] == [row.prompt for row in new]
    assert [row.answer_prefix for row in old] == [line["answer_prefix"] for line in lines]


def test_a_sample_longer_than_asked_for_is_refused_with_both_lengths(tmp_path):
    path = write(tmp_path / "samples.jsonl", official("vt"))
    longest = rows_of("vt", path)[0].length
    message = rf"task vt at length {longest - 1}: .*samples.jsonl, line 1 has {longest} tokens .* at least {longest}$"
    with pytest.raises(LengthError, match=message):
        rows_of("vt", path, length=longest - 1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AssetError, match=r"gone\.jsonl does not exist"):
        rows_of("vt", tmp_path / "gone.jsonl")


@pytest.mark.parametrize(("evaluation", "calibration"), [(6, 0), (3, 3)])
def test_a_file_with_too_few_lines_is_refused_with_the_counts(evaluation, calibration, tmp_path):
    path = write(tmp_path / "samples.jsonl", official("vt"))
    with pytest.raises(AssetError, match=r"samples\.jsonl ends at line 5 with 5 samples of vt, but 6 are asked for"):
        rows_of("vt", path, evaluation=evaluation, calibration=calibration)


def test_a_broken_line_is_refused_with_its_number(tmp_path):
    path = write(tmp_path / "samples.jsonl", official("vt"))
    path.write_text(path.read_text(encoding="utf-8") + '\n{"index": 5, "inp', encoding="utf-8")
    with pytest.raises(AssetError, match=r"samples\.jsonl, line 7 is no JSON"):
        rows_of("vt", path)


@pytest.mark.parametrize("field", ["index", "input", "outputs"])
def test_a_missing_field_is_refused_with_file_and_line(field, tmp_path):
    lines = official("vt")
    del lines[4][field]
    path = write(tmp_path / "samples.jsonl", lines)
    path.write_text("\n" + path.read_text(encoding="utf-8"), encoding="utf-8")  # an empty line counts as a line
    with pytest.raises(AssetError, match=rf"samples\.jsonl, line 6 has no field '{field}'"):
        rows_of("vt", path, evaluation=1, calibration=0)


@pytest.mark.parametrize(
    ("field", "value"), [("input", 3), ("answer_prefix", ["x"]), ("outputs", "12"), ("outputs", []), ("outputs", [12])]
)
def test_a_field_of_another_type_is_refused_with_file_and_line(field, value, tmp_path):
    lines = official("vt")
    lines[1][field] = value
    with pytest.raises(AssetError, match=rf"samples\.jsonl, line 2: .*'{field}'"):
        rows_of("vt", write(tmp_path / "samples.jsonl", lines))


def test_a_file_of_another_task_without_prefix_is_refused(tmp_path):
    lines = [{key: line[key] for key in ("index", "input", "outputs")} for line in official("vt")]
    with pytest.raises(AssetError, match=r"line 1 has no field 'answer_prefix', and the prefix of niah_single_1"):
        rows_of("niah_single_1", write(tmp_path / "samples.jsonl", lines))


def test_a_file_is_checked_before_anything_is_tokenised(tmp_path):
    class Untouched:
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"the tokenizer was asked for {name}")

    path = write(tmp_path / "samples.jsonl", official("vt")[:1])
    too_many = Request("vt", 2200, 0, {"evaluation": 2, "calibration": 0}, True, Untouched(), {}, path)
    with pytest.raises(AssetError, match="but 2 are asked for"):
        rows("ruler", too_many)
