"""Many-shot tasks: shots fill the length, every question is asked once, and answers are read as people write them."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_tokenizer import small_tokenizer

from headscope.benchmarks.prose import packaged_prose
from headscope.benchmarks.reasoning.gsm8k import problems
from headscope.benchmarks.reasoning.metrics import letter_of, number_of
from headscope.benchmarks.reasoning.mmlu import choices_of_four
from headscope.benchmarks.registry import find, module_of, names, rows
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.sampling import Sampler
from headscope.benchmarks.scoring import score
from headscope.errors import AssetError, LengthError

TOKENIZER = small_tokenizer()
WORDS = packaged_prose().split()
NAMES = ("gsm8k", "mmlu")
MARKED = "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all <<48+24=72>>72.\n#### 72"


def text(rng: Random, least: int, most: int) -> str:
    first = rng.randrange(len(WORDS) - most)
    return " ".join(WORDS[first : first + rng.randint(least, most)])


def problem(rng: Random, number: int) -> dict[str, Any]:
    result = rng.randint(1, 5000)
    reasoning = f"{text(rng, 5, 30)} <<{result}+0={result}>>{result}\n{text(rng, 5, 20)}"
    return {"question": f"Problem {number}: {text(rng, 8, 25)}?", "answer": f"{reasoning}\n#### {result:,}"}


def choice(rng: Random, number: int) -> dict[str, Any]:
    choices = [text(rng, 1, 4) for _ in "ABCD"]
    subject = f"subject_{number // 20:02}"
    return {
        "question": f"In {subject}, {text(rng, 4, 20)}?",
        "subject": subject,
        "choices": choices,
        "answer": number % 4,
    }


def jsonl(records: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, records)).encode()


def parquet(records: list[dict[str, Any]]) -> bytes:
    table = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), table)
    return table.getvalue()


@cache
def contents() -> dict[str, bytes]:
    rng = Random(0)
    return {
        "gsm8k_train": jsonl([problem(rng, number) for number in range(200)]),
        "gsm8k_test": jsonl([problem(rng, number) for number in range(200, 280)]),
        "mmlu_validation": parquet([choice(rng, number) for number in range(200)]),
        "mmlu_test": jsonl([choice(rng, number) for number in range(80)]),
    }


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    for name, content in contents().items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents()}


def shot_rows(name: str, files: dict[str, Path], length: int = 2048, samples: int = 6, seed: int = 42) -> list[Row]:
    counts = {"evaluation": samples, "calibration": samples}
    return rows("reasoning", Request(name, length, seed, counts, True, TOKENIZER, files))


def read(name: str, split: str = "evaluation") -> Any:
    task = find("reasoning", name)
    return task.read([contents()[file] for file in task.needs(0)], split)


def test_tasks_are_found_by_name_with_their_files_and_budgets():
    assert names("reasoning") == [*NAMES]
    assert module_of("reasoning", "gsm8k") == "headscope.benchmarks.reasoning.gsm8k"
    tasks = {name: find("reasoning", name) for name in NAMES}
    assert [task.needs(8192) for task in tasks.values()] == [
        ["gsm8k_train", "gsm8k_test"],
        ["mmlu_validation", "mmlu_test"],
    ]
    assert [task.max_new_tokens for task in tasks.values()] == [256, 8]


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_fills_90_to_100_percent_of_the_length(name, files):
    for length in (1500, 4096):
        for row in shot_rows(name, files, length):
            tokens = len(TOKENIZER(row.prompt.text, add_special_tokens=False).input_ids)
            assert row.length == tokens + row.max_new_tokens
            assert 0.9 * length <= row.length <= length


def test_shots_too_long_for_the_length_are_passed_over(files):
    rng = Random(1)
    long = [{"question": text(rng, 200, 300), "answer": f"{text(rng, 100, 200)} #### 5"} for _ in range(100)]
    files["gsm8k_train"].write_bytes(contents()["gsm8k_train"] + b"\n" + jsonl(long))
    for row in shot_rows("gsm8k", files):
        assert row.length >= 0.9 * 2048
        assert max(row.source["shots"]) <= 200


@pytest.mark.parametrize("name", NAMES)
def test_shots_are_distinct_in_a_sample_and_drawn_afresh_in_each(name, files):
    shots = [row.source["shots"] for row in shot_rows(name, files)]
    assert all(len(set(lines)) == len(lines) > 3 for lines in shots)
    assert len({tuple(lines[:3]) for lines in shots}) == len(shots)
    assert any(lines != sorted(lines) for lines in shots)


@given(size=st.integers(1, 199), seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_larger_size_keeps_the_shots_and_adds_one(size, seed):
    task, data = find("reasoning", "gsm8k"), read("gsm8k")
    smaller, larger = (task.draw(Random(seed), count, "evaluation", data, 0).shots for count in (size, size + 1))
    assert larger[:-1] == smaller


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_question_and_together_ask_all(name):
    evaluation, calibration = (read(name, split).questions for split in ("evaluation", "calibration"))
    assert set(evaluation).isdisjoint(calibration)
    assert sorted([*evaluation, *calibration]) == list(range(1, 81))
    assert min(len(evaluation), len(calibration)) > 20


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_asked_once_in_an_order_that_no_seed_changes_and_that_is_not_the_files(name, files):
    questions = [row.source["question"] for row in shot_rows(name, files, samples=12)]
    assert questions == [row.source["question"] for row in shot_rows(name, files, samples=12, seed=7)]
    assert len(set(questions)) == len(questions)
    assert questions[:12] != sorted(questions[:12])


def test_neighbouring_questions_of_mmlu_come_from_several_subjects():
    first = list(read("mmlu").questions.values())[:12]
    assert len({item.question.split(",")[0] for item in first}) > 2


def test_a_shot_that_is_also_a_question_or_came_before_is_left_out():
    lines = contents()["gsm8k_train"].splitlines()
    again = b"\n".join([*lines[:3], lines[0], contents()["gsm8k_test"].splitlines()[0]])
    data = find("reasoning", "gsm8k").read([again, contents()["gsm8k_test"]], "evaluation")
    assert list(data.shots) == [1, 2, 3]


def test_problem_is_written_as_question_reasoning_and_result():
    [item] = problems(jsonl([{"question": " How many clips? ", "answer": MARKED}]), "gsm8k_train").values()
    assert item.shot == (
        "Question: How many clips?\nAnswer: She sold 48/2 = 24 clips in May. In all 72. The answer is 72.\n\n"
    )
    assert item.reference == "72"


def test_choices_are_written_one_a_line():
    row = {"question": "Two and two?", "choices": ["3", "4 ", "5", "6"], "answer": 1}
    for form in (jsonl, parquet):
        [item] = choices_of_four(form([row]), "mmlu_test").values()
        assert item.shot == "Two and two?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer: B\n\n"


def test_prompt_is_instruction_shots_and_the_question_with_the_prefix_after_the_template(files):
    row = shot_rows("mmlu", files)[0]
    prompt, question = row.prompt, read("mmlu").questions[row.source["question"]]
    assert "The following are multiple choice questions (with answers).\n\nIn subject_" in prompt.text
    assert prompt.text[prompt.question_offset :] == f"{question.question}<|im_end|>\n<|im_start|>assistant\n\nAnswer:"
    assert prompt.text[prompt.prefix_offset :] == row.answer_prefix == "\nAnswer:"
    assert row.references == [question.reference]


def test_more_samples_than_questions_are_refused(files):
    with pytest.raises(AssetError, match=r"the file gsm8k_test has \d+ questions for evaluation, one for each sample"):
        shot_rows("gsm8k", files, samples=80)


@pytest.mark.parametrize("count", range(24, 31))
def test_a_file_with_just_enough_shots_serves_and_one_with_too_few_is_refused(count, files):
    """The search tries 18, 23, 29 and 37 shots, so that it wants more than there are before it has seen them all."""
    files["gsm8k_train"].write_bytes(b"\n".join(contents()["gsm8k_train"].splitlines()[:count]))
    all_shots = Sampler(find("reasoning", "gsm8k"), Request("gsm8k", 10**6, 42, {}, True, TOKENIZER, files))
    length = all_shots.at_size("evaluation", 0, count).length
    [row] = shot_rows("gsm8k", files, length, samples=1)[:1]
    assert count - 2 <= len(row.source["shots"]) <= count
    with pytest.raises(LengthError, match=rf"gsm8k_train has {count} shots of at most \d+ tokens"):
        shot_rows("gsm8k", files, length * 11 // 10, samples=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gsm8k_train", b'\n{"question": "?", "answer": "#### 1"}\n{', "gsm8k_train, line 3 is no JSON"),
        ("gsm8k_test", b'\n\n{"question": "?"}', "gsm8k_test, line 3 has no field 'answer'"),
        ("gsm8k_test", b'{"question": "?", "answer": 5}', "gsm8k_test, line 1: field 'answer' is a int, not a str"),
        ("gsm8k_test", b'{"question": "?", "answer": "5"}', "gsm8k_test, line 1: the answer does not end in '####"),
        ("mmlu_test", b'{"question": "?", "choices": ["a"], "answer": 0}', "line 1 has 1 choices and answer 0"),
        ("mmlu_test", parquet([{"question": "?", "answer": 0}]), "mmlu_test, line 1 has no field 'choices'"),
        ("mmlu_validation", b"PAR1 and no more", "mmlu_validation is no parquet file that can be read"),
    ],
)
def test_damaged_file_is_refused_by_name_and_line(name, content, message, files):
    files[name].write_bytes(content)
    with pytest.raises(AssetError, match=message.replace("?", r"\?")):
        shot_rows(name.split("_")[0], files)


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        (" 24 and 48, so the answer is 72.", True),
        ("The answer is 72.\n\nQuestion: What of 5?\nAnswer: The answer is 5.", True),
        ("The total is $72.00", True),
        ("12 * 6 = 72\n#### 72\nI used 2 steps.", True),
        ("#### 72", True),
        ("It is -72.", False),
        ("It is 720.", False),
        ("72 apples make 2 boxes", False),
        ("No idea.", False),
        ("", False),
    ],
)
def test_last_number_is_what_an_answer_settles_on(prediction, right):
    row = {"task": "gsm8k", "metric": "last_number", "references": ["72"], "classes": []}
    assert score("reasoning", row, prediction).value == 100 * right


@given(
    st.integers(-(10**9), 10**9), st.sampled_from(["{:,}", "{}", "{}.00", "#### {}", "$ {:,}", "so {}.\n\nQuestion: 7"])
)
@example(-1234567, "-$1,234,567")
def test_a_number_is_read_in_any_form(number, form):
    assert number_of(form.format(number)) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("10-3", 3), ("= -3", -3), ("\u22123", -3), ("1,2345", 2345), ("3,4", 4), ("$-5", -5), (".5 or 0.25", 0.25)],
)
def test_signs_and_commas_are_told_from_operators_and_lists(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (" B\n\nThe following", "B"),
        ("(C) because A is wrong", "C"),
        ("**D**", "D"),
        ("_A_", "A"),
        ("\nthe answer is B.", "B"),
        ("Both", None),
        ("E\nA", None),
        ("b", None),
        ("", None),
    ],
)
def test_choice_is_the_first_letter_that_stands_alone_in_the_first_line(text, letter):
    assert letter_of(text) == letter


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.text("abc .()*\n", max_size=9))
def test_choice_scores_100_or_0_whatever_follows(chosen, right, rest):
    row = {"task": "mmlu", "metric": "choice_letter", "references": [right], "classes": []}
    assert score("reasoning", row, f" {chosen}. {rest}").value == 100 * (chosen == right)
