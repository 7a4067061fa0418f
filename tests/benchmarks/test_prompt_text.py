"""Chat templates, tokens by offsets, packaged prose, and where a needle lies in prose."""

import re
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizer import CHATML, small_tokenizer
from tokenizers.processors import TemplateProcessing

from headscope.benchmarks import chat
from headscope.benchmarks.encoding import count_tokens, encode
from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.benchmarks.ruler.haystack import first_words, insert
from headscope.benchmarks.ruler.needles import word_list
from headscope.benchmarks.ruler.niah import DEPTHS, in_prose
from headscope.benchmarks.task import Rendering
from headscope.errors import AssetError, ConfigError

RENDERING = Rendering("Read this.\nSome words.\n", "Question: what?", " Answer:", ["x"])


def test_prefix_follows_the_template_with_its_space():
    prompt = chat.assemble(RENDERING, small_tokenizer(), chat_template=True)
    assert prompt.text.endswith("Question: what?<|im_end|>\n<|im_start|>assistant\n Answer:")


def test_a_tokenizer_without_template_is_refused_when_one_is_asked_for():
    with pytest.raises(ConfigError, match=r"no chat template; set benchmark\.<name>\.chat_template=false"):
        chat.assemble(RENDERING, small_tokenizer(chat_template=None), chat_template=True)


def test_a_template_that_rewrites_the_text_is_refused():
    tokenizer = small_tokenizer("{{ messages[0]['content'] | upper }}")
    with pytest.raises(ConfigError, match="rewrites the user's text"):
        chat.assemble(RENDERING, tokenizer, chat_template=True)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ raise_exception('a system message\n is needed') }}", r"cannot write .*TemplateError: a system message is"),
        ("{{ tools[0].name }}" + CHATML, r"cannot write a user's turn \(UndefinedError"),
        ("{% for %}", r"cannot write a user's turn \(TemplateSyntaxError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"cannot write a user's turn \(RecursionError"),
        ("\ud800" + CHATML, r"cannot write a user's turn \(UnicodeEncodeError"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end within 0.2 s"),
        ("{{ [1, 2] | random }}" + CHATML, "draws at random, so that each prompt would be another one"),
        ("{{ lipsum() }}" + CHATML, "draws at random"),
        (CHATML + CHATML, "writes the user's text 2 times, so the question cannot be found in it"),
        ("{{ messages[0]['content'][:9] }}", "rewrites the user's text"),
        ("{{ raise_exception }}" + CHATML, "writes addresses of memory, which differ each time"),
        (["x"], "is a list, not a text"),
        ({"tool_use": CHATML}, r"cannot be chosen \(This model has multiple chat templates with no default"),
    ],
    ids=str,
)
def test_a_template_that_gives_no_certain_prompt_is_refused_by_one_line(monkeypatch, template, fault):
    monkeypatch.setattr(chat, "SECONDS", 0.2)
    with pytest.raises(ConfigError, match=fault) as refusal:
        chat.assemble(RENDERING, small_tokenizer(template), chat_template=True)
    assert "\n" not in str(refusal.value) and "set benchmark.<name>.chat_template=false" in str(refusal.value)


@pytest.mark.parametrize("text", [" \n Question: what?", "Question: what? \n"])
def test_a_question_starts_at_its_first_character_where_the_template_strips_it(text):
    tokenizer = small_tokenizer("<|im_start|>{{ messages[0]['content'] | trim }}<|im_end|>")
    prompt = chat.assemble(Rendering("", text, "", []), tokenizer, chat_template=True)
    assert prompt.text[prompt.question_offset :] == "Question: what?<|im_end|>"


@pytest.mark.parametrize("today", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string }}"])
def test_a_template_that_prints_the_date_gives_the_same_bytes_tomorrow(today):
    text = chat.assemble(RENDERING, small_tokenizer(today + CHATML), chat_template=True).text
    assert text.startswith("26 Jul 2024<|im_start|>")
    assert date.today().strftime("%d %b %Y") not in text


def test_plain_text_starts_with_the_token_that_the_tokenizer_puts_there():
    tokenizer = small_tokenizer()
    assert chat.assemble(RENDERING, tokenizer, chat_template=False).text == RENDERING.text + " Answer:"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    prompt = chat.assemble(RENDERING, tokenizer, chat_template=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert prompt.text == "<|im_start|>" + RENDERING.text + " Answer:"
    assert prompt.text[prompt.question_offset :].startswith("Question")


@given(
    st.text("ab \n<é", max_size=40), st.text("xy ?\n", min_size=1, max_size=20), st.text(" ab:", min_size=1, max_size=9)
)
@settings(deadline=None)
def test_boundaries_are_the_first_tokens_at_or_after_the_offsets(context, question, prefix):
    tokenizer = small_tokenizer()
    text, at_question, at_prefix = context + question + prefix, len(context), len(context + question)
    encoded = encode(tokenizer, text, at_question, at_prefix)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    for token, offset in ((encoded.boundary, at_question), (encoded.prefix_start, at_prefix)):
        assert all(start < offset for start, _ in offsets[:token])
        assert all(start >= offset for start, _ in offsets[token:])
    assert count_tokens(tokenizer, text) == len(encoded.ids)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(AssetError, match="tokenizer Slow gives no character offsets"):
        encode(Slow(), "text", 0, 1)


def test_packaged_prose_is_sentences_without_code_or_markup():
    prose = packaged_prose()
    assert len(prose) > 150_000
    assert "\n" not in prose and "  " not in prose
    assert not re.search(r">>>|::=|\*\*\*|===|---", prose)
    assert np.mean([sentence[0].isupper() for sentence in sentences(prose)]) > 0.8


def test_words_start_again_when_prose_ends():
    assert first_words("a b c", 7) == "a b c a b c a"
    with pytest.raises(AssetError, match="empty"):
        first_words("", 3)


def test_word_lists_are_those_that_ruler_reads():
    assert [len(word_list(part)) for part in ("noun", "adjective", "verb")] == [6782, 912, 1042]


def test_depths_are_the_forty_rounded_points():
    assert list(DEPTHS) == list(np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int))


@given(st.lists(st.integers(0, 9), unique=True).map(sorted))
def test_insert_keeps_the_units_and_puts_each_text_before_its_own(places):
    extra = [f"x{place}" for place in places]
    lines = insert([str(i) for i in range(10)], extra, places)
    assert [line for line in lines if not line.startswith("x")] == [str(i) for i in range(10)]
    assert all(lines[lines.index(f"x{place}") + 1].lstrip("x") == str(place) or place + 1 in places for place in places)


def test_needles_at_both_ends_of_prose_keep_their_spaces():
    assert in_prose("A one. B two.", ["N.", "M."], [0, 100]) == " N. A one. B two. M. "
