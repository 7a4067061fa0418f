"""`headscope.calibrate`: which queries are fitted, what thresholds promise, and what is refused."""

from types import SimpleNamespace

import pytest
from adaptive_cases import LETTERS, NEW, WINDOW, calibrated, generated, text, tokenizer

import headscope
from headscope.errors import LengthError
from headscope.inference import calibrate as module

PROMPTS = [text(70 + 9 * seed, seed) for seed in range(3)]


def calibrate(model, prompts=PROMPTS, using=None, **options) -> headscope.AdaptiveCriterion:
    asked = {"window": WINDOW, "max_new_tokens": NEW, "probes": 12, **options}
    return headscope.calibrate(model, using or tokenizer(), prompts, **asked)


@pytest.mark.parametrize("recipe", ["lost_output", "lost_output_gaussian", "qada"])
def test_targets_are_about_what_generation_reaches_on_the_same_prompts(model, recipe: str) -> None:
    criterion = calibrated(model, recipe)
    ids = [tokenizer()(prompt).input_ids for prompt in PROMPTS]
    for target in (0.3, 0.7):
        with headscope.adaptive(model, criterion, target) as run:
            generated(model, ids)
        assert run.sparsity.head == pytest.approx(target, abs=0.1)
        assert run.sparsity.group < run.sparsity.head


def test_the_queries_are_those_of_the_answer_or_from_the_question_on(model, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, original = [], module.record_margins
    monkeypatch.setattr(
        module, "record_margins", lambda m, ids, at, *rest: seen.append((ids, at)) or original(m, ids, at, *rest)
    )
    context, question = text(60, 1), text(9, 2)
    pair = calibrate(model, [(context, question)], outliers=6)
    plain = calibrate(model, [context + question], outliers=6)
    (ids, boundary), (same, later) = seen
    assert ids == same and ids[:69] == [LETTERS.index(letter) + 3 for letter in context + question]
    assert 69 < len(ids) <= 69 + NEW and (boundary, later) == (60, 69)
    assert pair.thresholds != plain.thresholds and pair.prompt_tokens == plain.prompt_tokens == (69,)


def test_special_tokens_are_those_of_the_text_unless_they_are_asked_for(model) -> None:
    class Special:
        """A tokenizer that starts every text with its first token, if it may."""

        is_fast, eos_token_id = True, 2

        def encode(self, *_, **__):
            return []

        def __call__(self, given, add_special_tokens, **_):
            found = tokenizer()(given, return_offsets_mapping=True)
            first = [1] * add_special_tokens
            mapping = [(0, 0)] * add_special_tokens + found.offset_mapping
            return SimpleNamespace(input_ids=first + found.input_ids, offset_mapping=mapping)

    for special in (False, True):
        found = calibrate(model, using=Special(), criterion="qada", add_special_tokens=special)
        assert found.prompt_tokens == tuple(len(prompt) + special for prompt in PROMPTS)


def test_prompts_within_the_window_count_for_nothing(model) -> None:
    recipe = {"criterion": "qada", "window": headscope.Window(4, 90)}
    with_short = calibrate(model, [*PROMPTS, text(20, 5)], **recipe)
    assert with_short.thresholds == calibrate(model, PROMPTS, **recipe).thresholds


def test_prompts_without_context_or_room_are_refused(model) -> None:
    for prompts in ([("", text(30, 1))], [text(500, 1)]):
        with pytest.raises(LengthError, match="at most 512 tokens with the answer"):
            calibrate(model, prompts)
