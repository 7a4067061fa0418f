"""Tasks made of the standard library: their sources, their lengths, and that answers need the context."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_files import temporary
from longbench_files import TOKENIZER, request

from headscope.benchmarks.longbench import completion, library, passages
from headscope.benchmarks.longbench.library import (
    documentation,
    is_calibration,
    read_library,
    standard_library,
    without_strings,
)
from headscope.benchmarks.registry import find, rows
from headscope.benchmarks.row import Request, Row
from headscope.benchmarks.scoring import score
from headscope.errors import AssetError, ConfigError, LengthError

NAMES = ("lcc_local", "passage_retrieval_local")
# Upper 0.1 % point of chi-square with 4 degrees of freedom.
CHI_SQUARE_4 = 18.47
MODULES = {
    *("argparse", "difflib", "inspect", "pickle", "subprocess", "tarfile", "heapq", "textwrap", "threading", "typing"),
    *("email._header_value_parser", "gettext", "locale", "selectors", "urllib.parse", "weakref", "zoneinfo._zoneinfo"),
}


@cache
def sources() -> dict[str, str]:
    return {name: text for name, text in standard_library().items() if name in MODULES}


@cache
def file() -> Path:
    path = temporary("headscope-library-") / "standard_library.json"
    path.write_text(json.dumps(sources()), encoding="utf-8")
    return path


def wish(task: str, length: int = 2048, evaluation: int = 6, **more: Any) -> Request:
    return request(task, {"standard_library": file()}, length, evaluation=evaluation, **more)


def local_rows(task: str, length: int = 2048, **more: Any) -> list[Row]:
    return rows("longbench", wish(task, length, **more))


def test_most_modules_of_the_list_are_in_this_python_and_nearly_all_are_code():
    modules = standard_library()
    assert modules == standard_library()
    assert list(modules) == [name for name in library.MODULES.split() if name in modules]
    assert len(modules) > 180 and sum(map(len, modules.values())) > 4_000_000
    assert all("\r" not in text for text in modules.values())


def test_both_splits_have_modules_and_share_none():
    evaluation, calibration = (read_library(file(), split) for split in ("evaluation", "calibration"))
    assert evaluation and calibration and set(evaluation) | set(calibration) == set(sources())
    assert set(evaluation).isdisjoint(calibration)
    assert all(map(is_calibration, calibration)) and not any(map(is_calibration, evaluation))


@pytest.mark.parametrize("length", [1024, 2048, 4096])
@pytest.mark.parametrize("name", NAMES)
def test_texts_fill_most_of_the_length_and_are_not_cut(name, length):
    rows = local_rows(name, length, calibration=2)
    assert len(rows) == 8 and not any(row.truncated for row in rows)
    fills = [(row.length - row.max_new_tokens) / length for row in rows]
    assert max(fills) <= 1 and min(fills) > 0.5
    assert 0.75 < np.mean(fills) < 1


@pytest.mark.parametrize("name", NAMES)
def test_rows_come_again_depend_on_the_seed_and_start_with_those_of_fewer(name):
    rows = local_rows(name, calibration=2)
    assert rows == local_rows(name, calibration=2)
    assert rows[:3] == local_rows(name, evaluation=3)
    assert rows[0].prompt.text != local_rows(name, seed=43, evaluation=1)[0].prompt.text
    assert [(row.split, row.index) for row in rows] == [
        *(("evaluation", index) for index in range(6)),
        ("calibration", 0),
        ("calibration", 1),
    ]
    assert len({row.source["_id"] for row in rows}) == 8


def test_evaluation_comes_first_whatever_order_the_samples_are_given_in():
    request = wish("lcc_local", calibration=1, evaluation=1)
    turned = Request(**vars(request) | {"samples": {"calibration": 1, "evaluation": 1}})
    assert [row.split for row in rows("longbench", turned)] == ["evaluation", "calibration"]


@pytest.mark.parametrize("name", NAMES)
def test_the_question_is_the_end_of_the_text_and_no_chat_template_stands_around_it(name):
    for row, record in zip(local_rows(name), find("longbench", name).records(wish(name), "evaluation"), strict=True):
        end = record.input + ('" is from Paragraph' if name != "lcc_local" else "")
        assert row.prompt.text[row.prompt.question_offset :] == end
        assert row.prompt.text.count(record.context) == 1 and "<|im_start|>" not in row.prompt.text


def test_the_next_line_uses_a_name_of_the_context_that_the_last_lines_do_not():
    split_sources = read_library(file(), "evaluation")
    for row in local_rows("lcc_local", evaluation=12):
        [answer] = row.references
        before = row.prompt.text.split("below.\n\n", 1)[1].split("\n")
        near, far = before[-completion.NEAR_LINES + 1 :], before[: -completion.NEAR_LINES]
        words = {word for word in re.findall(r"\w+", answer) if len(re.findall("[A-Za-z]", word)) >= 6}
        bare_near = set(re.findall(r"\w+", without_strings("\n".join(near))))
        assert any(word not in bare_near and re.search(rf"\b{word}\b", "\n".join(far)) for word in words)
        assert 20 <= len(answer.strip()) <= 100 and not re.search("`|#|//", answer)
        follows = "\n".join(before[-3:]) + "\n"
        assert any(re.search(re.escape(follows) + r"\n*" + re.escape(answer), text) for text in split_sources.values())


def test_every_reference_scores_itself_in_full():
    for name in NAMES:
        for row in local_rows(name, evaluation=8):
            prompt = {"task": name, "metric": row.metric, "references": row.references, "classes": row.classes}
            assert score("longbench", prompt, "\n" + row.references[0] + "\nmore").value == 100


def test_the_sentence_is_of_its_paragraph_alone_and_examples_are_of_others():
    for row in local_rows("passage_retrieval_local", evaluation=12):
        paragraphs = dict(re.findall(r"^(Paragraph \d+): (.*)$", row.prompt.text, flags=re.MULTILINE))
        asked_for = re.findall(r'^The sentence "(.*)" is from (Paragraph ?\d*)$', row.prompt.text, flags=re.MULTILINE)
        assert len(asked_for) == passages.EXAMPLES + 1 and asked_for[-1][1] == "Paragraph"
        answered = [*asked_for[:-1], (asked_for[-1][0], row.references[0])]
        assert len({name for _, name in answered}) == len(answered)
        assert all(sentence in paragraphs[name] for sentence, name in answered)
        assert [name for name, text in paragraphs.items() if asked_for[-1][0] in text] == row.references
        assert list(paragraphs) == [f"Paragraph {number}" for number in range(1, len(paragraphs) + 1)]
        assert len(set(paragraphs.values())) == len(paragraphs)


def test_every_place_is_as_likely():
    draws = passages.draws(list(sources().values()), "places", lambda context, _: len(context) // 5, 1024)
    parts = []
    for _ in range(400):
        context, _, answer = next(draws)
        parts.append((int(answer.split()[1]) - 0.5) / len(re.findall(r"^Paragraph \d+: ", context, flags=re.MULTILINE)))
    counts, _ = np.histogram(parts, bins=5, range=(0, 1))
    assert ((counts - 80) ** 2 / 80).sum() < CHI_SQUARE_4


def test_strings_and_comments_are_left_out_and_lines_stay():
    source = 'first = """two\nlines"""\n# comment "\nname = "text # no comment" + other  # \'\n'
    assert without_strings(source).split("\n") == [
        "first =       ",
        "        ",
        " " * 11,
        "name =" + " " * 21 + "+ other" + " " * 5,
        "",
    ]
    assert documentation('"""One\nline.\n\n  Next."""\nx = """z"""') == [["One line.", "Next."], ["z"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_length_that_is_too_short_is_refused(name):
    with pytest.raises(
        LengthError, match=rf"task {name} at length 64: 64 tokens are too few for .*; choose a greater length"
    ):
        local_rows(name, 64)


def test_a_length_beyond_all_paragraphs_takes_all_of_them():
    rows = local_rows("passage_retrieval_local", 200_000, evaluation=2)
    numbers = [len(re.findall(r"^Paragraph \d+: ", row.prompt.text, flags=re.MULTILINE)) for row in rows]
    assert numbers == [len(passages.paragraphs(list(read_library(file(), "evaluation").values())))] * 2


def test_what_is_no_library_is_refused(tmp_path):
    path = tmp_path / "library.json"
    for content, complaint in (("[", "is no JSON file"), ("[]", "is not sources"), ('{"a": 1}', "is not sources")):
        path.write_text(content)
        with pytest.raises(AssetError, match=complaint):
            read_library(path, "evaluation")
    with pytest.raises(AssetError, match="is no JSON file"):
        read_library(tmp_path / "nowhere.json", "evaluation")
    path.write_text(json.dumps({"argparse": ""}))
    with pytest.raises(ConfigError, match=r"none of the 1 modules in .* is for "):
        [read_library(path, split) for split in ("evaluation", "calibration")]
    path.write_text(json.dumps({name: "'''Text.'''\n" for name in sources()}))
    for name in NAMES:
        with pytest.raises(LengthError):
            rows("longbench", request(name, {"standard_library": path}, evaluation=1))


def test_the_tokenizers_own_count_decides():
    [row] = local_rows("lcc_local", evaluation=1)
    assert row.length == len(TOKENIZER(row.prompt.text).input_ids) + row.max_new_tokens
