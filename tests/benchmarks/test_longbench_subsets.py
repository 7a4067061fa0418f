"""The 21 subsets: their table, and rows with truncation, chat rule, buckets, classes and samsum's exceptions."""

from dataclasses import asdict
from pathlib import Path

import datasets
import pytest
from longbench_files import PROMPTS, PROSE, TOKENIZER, prompt_file, record, records, request, subset_request
from small_tokenizer import CHATML, small_tokenizer
from tokenizers.processors import TemplateProcessing

from headscope.benchmarks.encoding import encode
from headscope.benchmarks.longbench.metrics import METRICS
from headscope.benchmarks.longbench.subsets import SUBSETS, TASKS
from headscope.benchmarks.registry import find, module_of, names, needs, rows
from headscope.errors import AssetError, ConfigError, LengthError

# BENCHMARKS D2.1: group, metric, tokens to generate, samples, mean length, part of LongBench-E.
TABLE = """
narrativeqa           single-doc  qa_f1           128  200  18409
qasper                single-doc  qa_f1           128  200   3619  yes
multifieldqa_en       single-doc  qa_f1            64  150   4559  yes
multifieldqa_zh       single-doc  qa_f1_zh         64  200   6701
hotpotqa              multi-doc   qa_f1            32  200   9151  yes
2wikimqa              multi-doc   qa_f1            32  200   4887  yes
musique               multi-doc   qa_f1            32  200  11214
dureader              multi-doc   rouge_zh        128  200  15768
gov_report            summary     rouge           512  200   8734  yes
qmsum                 summary     rouge           512  200  10614
multi_news            summary     rouge           512  200   2113  yes
vcsum                 summary     rouge_zh        512  200  15380
trec                  few-shot    classification   64  200   5177  yes
triviaqa              few-shot    qa_f1            32  200   8209  yes
samsum                few-shot    rouge           128  200   6258  yes
lsht                  few-shot    classification   64  200  22337
passage_count         synthetic   count            32  200  11141  yes
passage_retrieval_en  synthetic   retrieval        32  200   9289  yes
passage_retrieval_zh  synthetic   retrieval_zh     32  200   6745
lcc                   code        code_sim         64  500   1235  yes
repobench-p           code        code_sim         64  500   4206  yes
"""
WITHOUT_CHAT = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
NAMES = sorted(PROMPTS)


def test_the_table_of_subsets_is_the_official_one():
    official = [line.split() for line in TABLE.strip().splitlines()]
    ours = [
        [s.name, s.group, s.metric, str(s.max_new_tokens), str(s.samples), str(s.mean_length)]
        + ["yes"] * (f"{s.name}_e" in TASKS)
        for s in SUBSETS
    ]
    assert ours == official
    assert sum(s.samples for s in SUBSETS) == 4750
    assert sum(s.language == "en" for s in SUBSETS) == 16


def test_the_extended_subsets_have_their_sizes_by_bucket():
    sizes = {name.removesuffix("_e"): task.samples for name, task in TASKS.items() if task.extended}
    assert len(sizes) == 13
    uneven = {"multifieldqa_en": (67, 70, 13), "qasper": (100, 100, 24), "multi_news": (100, 100, 94)}
    assert sizes == dict.fromkeys(sizes, (100, 100, 100)) | uneven


def test_every_task_is_found_has_a_metric_and_names_its_files():
    assert set(names("longbench")) == {*TASKS, "v2", "lcc_local", "passage_retrieval_local"}
    for name in names("longbench"):
        assert find("longbench", name).metric in METRICS
        assert name in __import__(module_of("longbench", name), fromlist=["TASKS"]).TASKS
    assert needs("longbench", "trec_e", 4096) == ["longbench_data", "longbench_prompts"]
    assert needs("longbench", "v2", 4096) == ["longbench_v2_data", "longbench_v2_prompt"]
    assert needs("longbench", "lcc_local", 4096) == ["standard_library"]


@pytest.mark.parametrize("name", NAMES)
def test_six_subsets_never_have_a_chat_template(tmp_path, name):
    [row] = rows("longbench", subset_request(tmp_path, name, records(1)))
    plain = PROMPTS[name].format(**record(0))
    assert (row.prompt.text == plain) == (name in WITHOUT_CHAT)
    assert row.prompt.text.startswith("<|im_start|>user\nYou are told: " + plain) == (name not in WITHOUT_CHAT)
    assert rows("longbench", subset_request(tmp_path, name, records(1), chat_template=False))[0].prompt.text == plain


@pytest.mark.parametrize("length", [4096, 120])
@pytest.mark.parametrize("name", NAMES)
def test_the_question_is_the_input_or_what_follows_the_last_placeholder(tmp_path, name, length):
    [row] = rows("longbench", subset_request(tmp_path, name, records(1), length))
    end = "What does document 0 say?" + PROMPTS[name].split("{input}")[-1]
    question = end if "{input}" in PROMPTS[name] and name != "repobench-p" else PROMPTS[name].split("}")[-1]
    after = row.prompt.text[row.prompt.question_offset :]
    assert after.removesuffix("<|im_end|>\n<|im_start|>assistant\n") == question != ""
    assert row.truncated == (length == 120)
    assert row.prompt.prefix_offset == len(row.prompt.text) and row.answer_prefix == ""
    encoded = encode(TOKENIZER, row.prompt.text, row.prompt.question_offset, row.prompt.prefix_offset)
    assert encoded.boundary < len(encoded.ids) == row.length - row.max_new_tokens


def test_a_text_is_truncated_before_the_chat_template(tmp_path):
    context = PROSE[:5000]
    [row] = rows("longbench", subset_request(tmp_path, "qasper", [record(0, context=context)], length=201))
    ids = TOKENIZER(PROMPTS["qasper"].format(context=context, input=record(0)["input"])).input_ids
    ends = TOKENIZER.decode(ids[:100]) + TOKENIZER.decode(ids[-100:])
    assert row.prompt.text == f"<|im_start|>user\nYou are told: {ends}<|im_end|>\n<|im_start|>assistant\n"
    assert row.truncated
    assert row.length > 201 + row.max_new_tokens  # the template comes on top


def test_plain_text_starts_with_the_token_that_a_truncated_text_lost(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    try:
        prompts = [
            rows("longbench", subset_request(tmp_path, "trec", records(1), length, tokenizer=tokenizer))[0]
            for length in (101, 4096)
        ]
    finally:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert [row.truncated for row in prompts] == [True, False]
    for row in prompts:
        assert row.prompt.text.startswith("<|im_start|>Some examples.")
        assert row.prompt.text.count("<|im_start|>") == 1


def test_a_template_that_strips_the_text_keeps_the_question(tmp_path):
    prompts = prompt_file(tmp_path / "prompts.json", passage_count="Count these.\n\n{context}\n\nThe answer is: ")
    files = {"longbench_data": subset_request(tmp_path, "passage_count", records(1)).files["longbench_data"]}
    stripped = request(
        "passage_count",
        files | {"longbench_prompts": prompts},
        tokenizer=small_tokenizer(CHATML.replace("m['content']", "m['content'] | trim")),
    )
    [row] = rows("longbench", stripped)
    assert row.prompt.text[row.prompt.question_offset :].startswith("\n\nThe answer is:<|im_end|>")


@pytest.mark.parametrize("name", ["qasper", "samsum", "samsum_e"])
def test_only_samsum_has_a_least_answer_that_ends_with_its_line(tmp_path, name):
    [row] = rows("longbench", subset_request(tmp_path, name, records(1)))
    assert (row.min_new_tokens, row.stop_text) == ((1, "\n") if "samsum" in name else (0, ""))


@pytest.mark.parametrize("name", ["multi_news_e", "multi_news"])
def test_lengths_at_the_borders_fall_into_the_official_buckets(tmp_path, name):
    lengths = (0, 3999, 4000, 7999, 8000, 90_000)
    data = [record(number, length=length) for number, length in enumerate(lengths)]
    buckets = [row.bucket for row in rows("longbench", subset_request(tmp_path, name, data))]
    assert buckets == (["0-4k", "0-4k", "4-8k", "4-8k", "8k+", "8k+"] if name.endswith("_e") else [""] * 6)


def test_every_row_chooses_from_its_own_classes(tmp_path):
    prompts = rows("longbench", subset_request(tmp_path, "trec", records(3)))
    assert [row.classes for row in prompts] == [[f"class {number}", "other"] for number in range(3)]
    with pytest.raises(AssetError, match="row id0 of lsht has no 'all_classes'"):
        rows("longbench", subset_request(tmp_path, "lsht", records(1, all_classes=None)))


def test_the_same_request_gives_the_same_rows_and_indices_count_each_split(tmp_path):
    wish = subset_request(tmp_path, "hotpotqa", records(40), evaluation=20, calibration=6)
    prompts = rows("longbench", wish)
    assert prompts == rows("longbench", wish)
    assert [(row.split, row.index) for row in prompts] == [
        *(("evaluation", index) for index in range(20)),
        *(("calibration", index) for index in range(6)),
    ]
    assert len({row.source["_id"] for row in prompts}) == 26
    assert prompts[0].references == record(int(prompts[0].source["_id"].removeprefix("id")))["answers"]


def test_rows_load_as_an_arrow_dataset(tmp_path):
    prompts = rows("longbench", subset_request(tmp_path, "qasper", records(3)))
    table = datasets.Dataset.from_list([asdict(row) for row in prompts])
    assert table[1]["source"] == {"_id": "id1", "words": 101}


def test_braces_in_a_document_survive(tmp_path):
    data = [record(0, context='{"a": {b}} {input} %s', input="{context}?")]
    [row] = rows("longbench", subset_request(tmp_path, "triviaqa", data))
    assert row.prompt.text == 'Some examples.\n\n{"a": {b}} {input} %s\n{context}?'


def test_an_empty_question_is_refused_with_its_row(tmp_path):
    with pytest.raises(AssetError, match=r"row id1: its field 'input' is empty, so there is no question"):
        rows("longbench", subset_request(tmp_path, "trec", [record(0), record(1, input="")]))


def test_a_prompt_file_without_the_prompt_is_refused(tmp_path):
    wish = subset_request(tmp_path, "qasper", records(1))
    Path(wish.files["longbench_prompts"]).write_text('{"trec": "{context}"}')
    with pytest.raises(AssetError, match=r"dataset2prompt.json holds no prompt for qasper .*give dataset2prompt.json"):
        rows("longbench", wish)


def test_what_cannot_work_is_refused_before_a_text_is_tokenised(tmp_path):
    with pytest.raises(LengthError, match=r"task qasper at length 1: .* at least 2 tokens"):
        rows("longbench", subset_request(tmp_path, "qasper", records(1), length=1, tokenizer=None))
    with pytest.raises(ConfigError, match="none of its 1 rows is for "):
        rows("longbench", subset_request(tmp_path, "qasper", records(1), tokenizer=None, calibration=1))
    with pytest.raises(ConfigError, match="unknown longbench task 'qaspr'; nearest: 'qasper'"):
        rows("longbench", subset_request(tmp_path, "qaspr", records(1)))
