"""Texts beyond the limit keep both ends, and their question is found again whatever decoding changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longbench_files import PROSE, TOKENIZER
from small_tokenizer import small_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from headscope.benchmarks.longbench.template import Template, dollar_style, format_style
from headscope.benchmarks.longbench.truncation import Cut, Limit
from headscope.errors import AssetError

QUESTION = "Now, what is the answer (of two words)?\nAnswer:"
TEXT = PROSE[:3000] + "\n\n" + QUESTION
OFFSET = len(TEXT) - len(QUESTION)
KNOWN = {"context", "input"}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-cases, splits words into pieces, and decodes with spaces cleaned up: no text comes back as it was."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, tokenizer.token_to_id(token)) for token in special[1:]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        clean_up_tokenization_spaces=True,
    )


@pytest.mark.parametrize("tokens", [200, 201])
def test_halves_are_equal_in_tokens_and_decoded_apart(tokens):
    ids = TOKENIZER(TEXT).input_ids
    cut = Limit(tokens, True, TOKENIZER).cut(TEXT, OFFSET)
    assert cut.text == TOKENIZER.decode(ids[:100]) + TOKENIZER.decode(ids[-100:])
    assert TEXT.startswith(cut.text[:200]) and TEXT.endswith(cut.text[-200:])
    assert cut.truncated


@pytest.mark.parametrize(("tokens", "first", "last"), [(200, 100, 100), (201, 100, 101)])
def test_v2_keeps_all_tokens_of_an_odd_limit(tokens, first, last):
    ids = TOKENIZER(TEXT).input_ids
    cut = Limit(tokens, False, TOKENIZER).cut(TEXT, OFFSET)
    assert cut.text == TOKENIZER.decode(ids[:first] + ids[-last:])


def test_a_text_of_the_limit_is_left_alone_and_one_token_more_is_not():
    count = len(TOKENIZER(TEXT).input_ids)
    assert Limit(count, True, TOKENIZER).cut(TEXT, OFFSET) == Cut(TEXT, OFFSET, truncated=False)
    assert Limit(count - 1, True, TOKENIZER).cut(TEXT, OFFSET).truncated


def test_special_tokens_count_but_are_not_kept():
    tokenizer = word_tokenizer()
    ids = tokenizer(TEXT).input_ids
    assert not Limit(len(ids), True, tokenizer).cut(TEXT, OFFSET).truncated
    cut = Limit(len(ids) - 1, True, tokenizer).cut(TEXT, OFFSET)
    assert cut.truncated and "[" not in cut.text


@given(offset=st.integers(0, len(TEXT) - 1), tokens=st.integers(2, 900), apart=st.booleans())
@settings(deadline=None)
def test_the_question_is_found_again_or_starts_where_it_was_cut(offset, tokens, apart):
    cut = Limit(tokens, apart, TOKENIZER).cut(TEXT, offset)
    question = cut.text[cut.question_offset :]
    assert question and TEXT[offset:].endswith(question)
    length = len(TOKENIZER.decode(TOKENIZER(TEXT).input_ids[-(tokens // 2 if apart else tokens - tokens // 2) :]))
    if cut.truncated:
        assert len(question) == min(length, len(TEXT) - offset)


@pytest.mark.parametrize("apart", [True, False])
def test_a_tokenizer_that_changes_the_text_still_finds_the_question(apart):
    cut = Limit(300, apart, word_tokenizer()).cut(TEXT, OFFSET)
    assert cut.truncated and not TEXT.endswith(cut.text[-40:])
    assert cut.text[cut.question_offset :].replace(" ", "") == QUESTION.lower().replace(" ", "").replace("\n", "")


def test_a_changed_question_that_was_cut_starts_at_the_second_half():
    tokenizer = word_tokenizer()
    cut = Limit(20, True, tokenizer).cut(TEXT, OFFSET)
    assert cut.text[: cut.question_offset] == tokenizer.decode(tokenizer(TEXT).input_ids[:10], skip_special_tokens=True)


def test_a_slow_tokenizer_is_refused_only_where_offsets_are_needed():
    class Slow:
        is_fast = False

        def __call__(self, text: str, verbose: bool) -> object:
            return small_tokenizer()(text)

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return small_tokenizer().decode(ids).upper()

    with pytest.raises(AssetError, match="tokenizer Slow gives no character offsets"):
        Limit(200, True, Slow()).cut(TEXT, OFFSET)


TEXTS = st.text("ab{}$ \n")


@given(TEXTS, TEXTS, st.text("cd \n"), st.text("cd \n"))
def test_braces_of_a_document_survive_and_the_question_is_where_the_input_starts(context, question, before, after):
    pattern = before + "{context}" + after + "{input}" + before
    template = format_style(pattern, KNOWN, "here")
    values = {"context": context, "input": question}
    assert template.names == ["context", "input"]
    assert template.fill(values, "input") == (pattern.format(**values), len(before + context + after))
    assert template.fill(values) == (pattern.format(**values), len(before + context + after + question))


def test_doubled_braces_are_braces():
    template = format_style("a {{x}} {context} {{}}", KNOWN, "here")
    assert template.fill({"context": "{y}"}) == ("a {x} {y} {}", 9)


@pytest.mark.parametrize("pattern", ["{question}", "{context!r}", "{context:>9}", "{}", "{0}"])
def test_other_placeholders_are_refused(pattern):
    with pytest.raises(
        AssetError, match=r"^the prompt has a placeholder \{.*\}; known: context, input; fetch it again"
    ):
        format_style(pattern, KNOWN, "the prompt")


def test_a_brace_without_partner_is_refused():
    with pytest.raises(AssetError, match=r"the prompt is no template .*fetch it again"):
        format_style("{context", KNOWN, "the prompt")


def test_placeholders_of_dollars_are_all_there_and_none_else():
    assert dollar_style("a $Q$ b $5 $ $", {"Q"}, "here") == Template((("a ", "Q"), (" b $5 $ $", "")))
    with pytest.raises(AssetError, match=r"here has placeholders Q, X, not DOC, Q; fetch it again"):
        dollar_style("$Q$ $X$", {"DOC", "Q"}, "here")
