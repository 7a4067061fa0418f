import random
from types import SimpleNamespace

import pytest
import torch
from tape import Tape
from tiny_models import CONFIGS, EOS, SHAPE, random_ids, tiny_model
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from headscope.kernels.common.graph import GRAPHS
from headscope.models import generation
from headscope.models.attention import attention
from headscope.models.generation import Unanswered, batches, greedy_answer, greedy_answers, stop_tokens
from headscope.models.row_caches import RowCaches
from headscope.models.tiny import tiny_tokenizer

BUDGET = 16
LENGTHS = (40, 23, 61, 40, 12)


def prompts(eos: list[int], minimum: int = 0, lengths: tuple[int, ...] = LENGTHS) -> list[Unanswered]:
    return [Unanswered(random_ids(n, seed), BUDGET, eos, minimum) for seed, n in enumerate(lengths)]


def by_generate(model, prompt: Unanswered) -> tuple[list[int], str]:
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=prompt.max_new_tokens,
        min_new_tokens=prompt.min_new_tokens,
        eos_token_id=list(prompt.eos),
        pad_token_id=0,
    )
    answer = model.generate(torch.tensor([prompt.ids], device=model.device), generation_config=config)[
        0, len(prompt.ids) :
    ].tolist()
    return (answer[:-1], "eos") if answer[-1] in prompt.eos else (answer, "length")


@pytest.mark.parametrize("family", CONFIGS)
def test_prompts_of_all_lengths_answered_together_answer_as_generate_does_alone(family: str) -> None:
    model = tiny_model(family)
    alone = [by_generate(model, prompt) for prompt in prompts([EOS, 5, 6])]
    assert greedy_answers(model, prompts([EOS, 5, 6])) == alone
    assert len({tuple(tokens) for tokens, _ in alone}) == len(LENGTHS)


def test_rows_stop_at_different_tokens_and_shuffled_batches_change_no_answer() -> None:
    model, stops = tiny_model("llama", torch.float32), [EOS, *range(5, 12)]
    expected = greedy_answers(model, prompts(stops))
    assert len({len(tokens) for tokens, _ in expected}) > 2 and {stop for _, stop in expected} == {"eos", "length"}
    order = list(range(len(LENGTHS)))
    for seed in range(4):
        random.Random(seed).shuffle(order)
        parts = order[:2], order[2:]
        answers = [answer for part in parts for answer in greedy_answers(model, [prompts(stops)[i] for i in part])]
        assert answers == [expected[i] for i in order]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_captured_steps_give_the_answers_of_eager_ones(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stops = tiny_model(family), [EOS, *range(5, 9)]
    expected = greedy_answers(model, prompts(stops))
    Tape.made.clear()
    monkeypatch.setitem(GRAPHS, "cpu", Tape)
    assert greedy_answers(model, prompts(stops)) == expected
    assert sum(tape.replays for tape in Tape.made) > 4  # a step is eager, the next taped, after each change of rows


def test_a_step_that_waits_for_the_gpu_stays_eager_and_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    expected = greedy_answers(model, prompts([EOS]))
    monkeypatch.setitem(GRAPHS, "cpu", Tape)
    model.lm_head.register_forward_hook(lambda _module, _arguments, logits: logits if logits.any() else None)
    Tape.made.clear()
    with pytest.warns(UserWarning, match="cannot be captured and stays slow"):
        assert greedy_answers(model, prompts([EOS])) == expected
    assert len(Tape.made) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("family", CONFIGS)
def test_answers_on_a_gpu_are_those_of_generate_in_float32(family: str) -> None:
    model = tiny_model(family, torch.float32).cuda()
    alone = [by_generate(model, prompt) for prompt in prompts([EOS, 5, 6])]
    assert greedy_answers(model, prompts([EOS, 5, 6])) == alone


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_logits_of_a_batch_are_those_of_each_row_alone_in_float32(group: int) -> None:
    sizes = {**SHAPE, "num_attention_heads": 8, "num_key_value_heads": 8 // group, "head_dim": 8}
    torch.manual_seed(group)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).eval()
    ids, answers = [prompt.ids for prompt in prompts([])], torch.tensor([random_ids(6, 50 + i) for i in range(5)])
    with torch.inference_mode(), attention(model):
        caches = RowCaches(model, len(ids), 70)
        read = torch.stack([caches.read(row, prompt) for row, prompt in enumerate(ids)])
        steps = torch.stack([read, *(caches.step(answers[:, step].tolist()) for step in range(6))], 1)
        for row, prompt in enumerate(ids):
            whole = model(torch.tensor([[*prompt, *answers[row].tolist()]])).logits[0, len(prompt) - 1 :]
            torch.testing.assert_close(steps[row], whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("going", [[0], [4], [1, 3], [0, 2, 4], [3, 4], [0, 1, 2, 3, 4]])
def test_rows_that_go_on_keep_their_own_keys(going: list[int]) -> None:
    model, ids = tiny_model("gemma3"), [prompt.ids for prompt in prompts([])]
    with torch.inference_mode(), attention(model):
        whole, some = RowCaches(model, 5, 70), RowCaches(model, 5, 70)
        for caches in (whole, some):
            for row, prompt in enumerate(ids):
                caches.read(row, prompt)
        order = some.keep(going)
        assert sorted(order) == going
        tokens = random_ids(5, 9)
        torch.testing.assert_close(some.step([tokens[row] for row in order]), whole.step(tokens)[order])


def test_an_answer_is_cut_at_its_stop_token_and_says_why_it_stopped() -> None:
    model, [prompt, *_] = tiny_model("llama_mha"), prompts([])
    tokens, stop = greedy_answer(model, prompt.ids, BUDGET, [])
    assert (len(tokens), stop) == (BUDGET, "length")
    last = tokens[-1]
    assert greedy_answer(model, prompt.ids, BUDGET, [last]) == (tokens[: tokens.index(last)], "eos")


@pytest.mark.parametrize("minimum", [1, 3])
def test_a_first_token_that_would_stop_is_passed_over_where_one_is_wanted(minimum: int) -> None:
    """LongBench's samsum: at least one token, and the stop tokens count again from the second on."""
    model, [prompt, *_] = tiny_model("llama_mha"), prompts([])
    first = greedy_answer(model, prompt.ids, BUDGET, [])[0][0]
    expected = [by_generate(model, each) for each in prompts([first], minimum)]
    assert greedy_answers(model, prompts([first], minimum)) == expected
    assert all(len(tokens) >= minimum for tokens, _ in expected)
    assert greedy_answer(model, prompt.ids, BUDGET, [first]) == ([], "eos")


def test_penalties_of_the_models_generation_configuration_count_nothing() -> None:
    """`generate` takes them from there even with a configuration of its own."""
    model, [prompt, *_] = tiny_model("llama"), prompts([EOS])
    plain = greedy_answers(model, prompts([EOS]))
    model.generation_config = GenerationConfig(repetition_penalty=3.0, no_repeat_ngram_size=1, eos_token_id=EOS)
    assert by_generate(model, prompt) != plain[0]
    assert greedy_answers(model, prompts([EOS])) == plain


def test_batches_hold_what_fits_and_one_prompt_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", torch.float32)
    token = 2 * 3 * 2 * 8 * 4  # keys and values, layers, KV heads, head_dim, bytes
    some = prompts([EOS])  # 56, 39, 77, 56 and 28 tokens with their answers
    for room, expected in ((10, [[0], [1], [2], [3], [4]]), (2 * 77, [[0, 1], [2, 3], [4]]), (10**6, [[*range(5)]])):
        monkeypatch.setattr(generation, "CPU_BYTES", room * token)
        assert [*batches(model, some)] == expected


def test_prompts_whose_rotary_factors_differ_are_answered_apart() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    sizes = {**SHAPE, "max_position_embeddings": 50, "head_dim": 8}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, rope_parameters=rope)).eval()
    some = prompts([EOS], lengths=(20, 30, 70, 70, 10))
    assert [*batches(model, some)] == [[0, 1], [2, 3], [4]]


def test_an_answer_also_stops_at_the_last_token_of_a_text() -> None:
    tokenizer = tiny_tokenizer(["one two\n", "three\n"], 300)
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=5))
    newline = tokenizer.encode("\n", add_special_tokens=False)[-1]
    assert set(stop_tokens(model, tokenizer, "\n")) == {5, tokenizer.eos_token_id, newline}
    assert set(stop_tokens(model, tokenizer)) == {5, tokenizer.eos_token_id}
