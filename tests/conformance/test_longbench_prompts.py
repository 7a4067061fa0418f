"""Prompts of real LongBench rows against the official files, byte for byte."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from small_tokenizer import small_tokenizer

from headscope.benchmarks.longbench.data import example_of, read_records
from headscope.benchmarks.longbench.subsets import SUBSETS, TASKS, read_template
from headscope.benchmarks.registry import rows
from headscope.benchmarks.row import Request, Row

DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "mirror" / "longbench"
FOLDER = Path(os.environ.get("HEADSCOPE_LONGBENCH", DEFAULT))
REAL = ("multi_news", "multifieldqa_zh", "passage_retrieval_zh")
LIMIT = 3500


def official(name: str) -> Path:
    """A file of the official folder; skips the test where there is none."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no official file at {path}; set HEADSCOPE_LONGBENCH to the folder")
    return path


def prompts() -> dict[str, str]:
    return json.loads(official("dataset2prompt.json").read_text(encoding="utf-8"))


def real_rows(subset: str) -> list[dict[str, Any]]:
    path = official(f"data/{subset}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ours(subset: str, length: int, count: int, chat_template: bool = False) -> list[Row]:
    official(f"data/{subset}.jsonl")
    return rows(
        "longbench",
        Request(
            task=subset,
            length=length,
            seed=42,
            samples={"evaluation": count, "calibration": 0},
            chat_template=chat_template,
            tokenizer=small_tokenizer(),
            files={"longbench_data": official("data"), "longbench_prompts": official("dataset2prompt.json")},
        ),
    )


def test_the_prompt_file_is_the_one_these_tests_know():
    digest = hashlib.sha256(official("dataset2prompt.json").read_bytes()).hexdigest()
    assert digest == "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30"


def test_the_official_limits_are_ours():
    limits = json.loads(official("dataset2maxlen.json").read_text(encoding="utf-8"))
    assert limits == {subset.name: subset.max_new_tokens for subset in SUBSETS}


@pytest.mark.parametrize(
    ("subset", "oddity"),
    [
        ("narrativeqa", "Answer the question asconcisely as you can"),
        ("narrativeqa", "based on the story asconcisely as you can"),
        ("qasper", "Article: A\n\n Answer the question"),
        ("multi_news", "summary of all news. \n"),
        ("lcc", "given below. \nANext line of code:\n"),
        ("repobench-p", "given below. \nABNext line of code:\n"),
        ("passage_count", "The final answer is: "),
        ("passage_retrieval_en", "The answer is: "),
        ("trec", "\n\nA\nB"),
        ("lsht", "\n\nA\nB"),
        ("triviaqa", "\n\nA\n\nB"),
        ("samsum", "\n\nA\n\nB"),
    ],
)
def test_oddities_of_the_official_prompts_are_kept(subset, oddity):
    text, _ = read_template(official("dataset2prompt.json"), subset).fill({"context": "A", "input": "B"})
    assert oddity in text
    if oddity.endswith((" ", "B", "code:\n")):
        assert text.endswith(oddity)


@pytest.mark.parametrize("subset", [subset.name for subset in SUBSETS])
def test_every_official_prompt_is_filled_as_python_fills_it(subset):
    values = {"context": "a {brace} 大 \\n", "input": "}{ and {input}"}
    text, _ = read_template(official("dataset2prompt.json"), subset).fill(values)
    assert text == prompts()[subset].format(**values)


@pytest.mark.parametrize("subset", REAL)
def test_real_rows_are_filled_as_python_fills_them(subset):
    template = read_template(official("dataset2prompt.json"), subset)
    question = "input" if "{input}" in prompts()[subset] else ""
    examples = [example_of(record, template, question) for record in read_records(official("data"), subset)]
    assert [example.text for example in examples] == [prompts()[subset].format(**row) for row in real_rows(subset)]
    assert [list(example.references) for example in examples] == [row["answers"] for row in real_rows(subset)]
    assert len(examples) == TASKS[subset].samples
    end = prompts()[subset].split("}")[-1]
    for example, row in zip(examples, real_rows(subset), strict=True):
        assert example.text[example.question_offset :] == (row["input"] if question else "") + end


@pytest.mark.parametrize("subset", REAL)
def test_real_rows_are_cut_as_the_official_code_cuts_them(subset):
    tokenizer, truncated = small_tokenizer(), []
    for row, theirs in zip(ours(subset, LIMIT, 12), _chosen(subset, 12), strict=True):
        prompt = prompts()[subset].format(**theirs)
        ids = tokenizer(prompt, truncation=False).input_ids
        if len(ids) > LIMIT:
            half = int(LIMIT / 2)
            prompt = tokenizer.decode(ids[:half], skip_special_tokens=True) + tokenizer.decode(
                ids[-half:], skip_special_tokens=True
            )
        assert row.prompt.text == prompt
        assert row.length == len(tokenizer(prompt).input_ids) + TASKS[subset].max_new_tokens
        truncated.append(row.truncated)
    assert any(truncated)
    assert subset != "multi_news" or not all(truncated)


def _chosen(subset: str, count: int) -> list[dict[str, Any]]:
    """The rows that our seed takes, as the official file has them."""
    ids = {row.source["_id"] for row in ours(subset, 64, count)}
    return [row for row in real_rows(subset) if row["_id"] in ids]


def test_real_questions_survive_truncation_and_the_chat_template():
    for row, theirs in zip(
        ours("passage_retrieval_zh", LIMIT, 6, True), _chosen("passage_retrieval_zh", 6), strict=True
    ):
        assert row.truncated
        assert row.prompt.text[row.prompt.question_offset :].startswith(theirs["input"])


def test_real_rows_come_again_and_are_each_there_once():
    prompts = ours("multi_news", 256, 20)
    assert prompts == ours("multi_news", 256, 20)
    assert [row.index for row in prompts] == list(range(20))
    assert len({row.source["_id"] for row in prompts}) == 20
