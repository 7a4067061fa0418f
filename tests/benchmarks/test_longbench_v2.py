"""LongBench-v2: its template in one pass, its truncation, its groups."""

import json
from pathlib import Path
from typing import Any

import pytest
from longbench_files import PROSE, TOKENIZER, lines, request

from headscope.benchmarks.longbench.v2 import read_questions
from headscope.benchmarks.registry import rows
from headscope.benchmarks.row import Request
from headscope.benchmarks.scoring import score
from headscope.errors import AssetError

PROMPT = (
    "Read.\n\n<text>\n$DOC$\n</text>\n\nAsked: $Q$\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\n\nAnswer like this."
)


def question(number: int, **changes: str) -> dict[str, str]:
    fields = {f"choice_{letter}": f" choice {letter}{number}\n" for letter in "ABCD"}
    fields |= {"_id": f"id{number}", "domain": "Law", "sub_domain": "Rules", "difficulty": "hard", "length": "short"}
    return fields | {"question": f"\nWhat is {number}? ", "answer": "C", "context": f" {PROSE[:300]}\n"} | changes


def wish(folder: Path, questions: list[Any], length: int = 4096, **more: Any) -> Request:
    data, prompt = folder / "data.json", folder / "0shot.txt"
    data.write_text(json.dumps(questions), encoding="utf-8")
    prompt.write_text(PROMPT, encoding="utf-8")
    return request("v2", {"longbench_v2_data": data, "longbench_v2_prompt": prompt}, length, **more)


def test_values_are_stripped_and_a_document_that_names_placeholders_stays_as_it_is(tmp_path):
    document = "It costs $5$, $Q$ or $C_A$ {context}."
    [row] = rows("longbench", wish(tmp_path, [question(7, context=f"\n{document} ")], chat_template=False))
    filled = (
        f"<text>\n{document}\n</text>\n\nAsked: What is 7?\n(A) choice A7\n(B) choice B7\n(C) choice C7\n(D) choice D7"
    )
    assert row.prompt.text == f"Read.\n\n{filled}\n\nAnswer like this."
    assert row.prompt.text[row.prompt.question_offset :].startswith("What is 7?\n(A)")


def test_an_odd_limit_keeps_all_its_tokens_decoded_together(tmp_path):
    [row] = rows("longbench", wish(tmp_path, [question(7, context=PROSE[:4000])], length=201, chat_template=False))
    [whole] = rows("longbench", wish(tmp_path, [question(7, context=PROSE[:4000])], chat_template=False))
    ids = TOKENIZER(whole.prompt.text).input_ids
    assert row.prompt.text == TOKENIZER.decode(ids[:100] + ids[-101:])
    assert row.truncated and not whole.truncated
    assert row.prompt.text[row.prompt.question_offset :].startswith("What is 7?\n(A)")


def test_rows_tell_what_the_official_table_needs(tmp_path):
    prompts = rows("longbench", wish(tmp_path, [question(0), question(1, length="long", difficulty="easy")]))
    assert [(row.bucket, row.source["difficulty"], row.source["length"]) for row in prompts] == [
        ("short", "hard", "short"),
        ("long", "easy", "long"),
    ]
    assert (prompts[0].metric, prompts[0].max_new_tokens, prompts[0].references) == ("choice", 128, ["C"])
    assert prompts[0].prompt.text.endswith("Answer like this.<|im_end|>\n<|im_start|>assistant\n")
    prompt = {"task": "v2", "metric": "choice", "references": prompts[0].references, "classes": []}
    assert score("longbench", prompt, "The correct answer is (C).").value == 100


def test_a_list_and_lines_are_the_same_questions(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps([question(0), question(1)], indent=1), encoding="utf-8")
    (tmp_path / "lines.json").write_text(lines([question(0), question(1)]), encoding="utf-8")
    assert read_questions(tmp_path / "list.json") == read_questions(tmp_path / "lines.json")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"answer": "E"}, "field 'answer' is 'E', not A or B or C or D"),
        ({"length": "8k"}, "field 'length' is '8k', not short or medium or long"),
        ({"context": 3}, "field 'context' is a int, not a str"),
    ],
)
def test_a_field_that_is_not_as_official_is_refused(tmp_path, changes, complaint):
    with pytest.raises(AssetError, match=rf"data.json, question 2: {complaint}; .*fetch the file again"):
        rows("longbench", wish(tmp_path, [question(0), question(1, **changes)]))


def test_a_damaged_file_is_refused(tmp_path):
    broken = {name: value for name, value in question(0).items() if name != "choice_B"}
    with pytest.raises(AssetError, match=r"data.json, question 1 has no field 'choice_B'"):
        rows("longbench", wish(tmp_path, [broken]))
    with pytest.raises(AssetError, match=r"data.json, question 1 is a int, not a JSON object"):
        rows("longbench", wish(tmp_path, [3]))
    (tmp_path / "data.json").write_text("[{")
    with pytest.raises(AssetError, match=r"data.json is no JSON .*fetch the file again"):
        read_questions(tmp_path / "data.json")
    with pytest.raises(AssetError, match=r"nowhere.json does not exist"):
        read_questions(tmp_path / "nowhere.json")
    request = wish(tmp_path, [question(0)])
    request.files["longbench_v2_prompt"].write_text("$DOC$ $Q$")
    with pytest.raises(AssetError, match=r"0shot.txt has placeholders DOC, Q, not C_A, C_B, C_C, C_D, DOC, Q"):
        rows("longbench", request)
    request.files["longbench_v2_prompt"].unlink()
    with pytest.raises(AssetError, match=r"0shot.txt does not exist"):
        rows("longbench", request)
