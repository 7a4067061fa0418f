import pytest
import torch
from tiny_models import CONFIGS, EOS, random_ids, tiny_model
from transformers import GenerationConfig

from headscope.errors import ShapeError
from headscope.heads import mass
from headscope.heads.bulk import LAST_QUERIES
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.window import Window
from headscope.lab.evaluation import Answer, answer_rows
from headscope.lab.prefill import prefill_densely
from headscope.lab.rows import Rows
from headscope.models.attention import attention

WINDOW = Window(sink=4, recent=16)
IDS, BOUNDARY, BUDGET = random_ids(80), 66, 24
THRESHOLDS = [{"threshold": threshold} for threshold in (0.5, -0.5, -2.0)]
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}


def criteria(layers: int = 3, heads: int = 4) -> list:
    labels = [[[1, 0] * (heads // 2)] * layers, [[0, 0, 0, 1]] * layers]
    rankings = [{"layers": [*range(layers)], "long": long} for long in labels]
    return [
        Rows(build({"kind": "dense"}, [{}], None)),
        Rows(build({"kind": "local"}, [{}], None)),
        Rows(build({"kind": "oracle"}, THRESHOLDS, None)),
        Rows(build({"kind": "static"}, rankings, None)),
        Rows(build({"kind": "qada"}, THRESHOLDS, build_estimator(GAUSSIAN, {}))),
    ]


def run(model, chosen, ids=IDS, boundary=BOUNDARY, budget=BUDGET) -> list[Answer]:
    return answer_rows(model, ids, boundary, chosen, WINDOW, budget, [EOS])


@pytest.mark.parametrize("family", CONFIGS)
def test_the_dense_row_equals_generate_token_for_token_in_float64(family: str) -> None:
    model = tiny_model(family)
    config = GenerationConfig(do_sample=False, max_new_tokens=BUDGET, eos_token_id=EOS, pad_token_id=0)
    for seed in range(3):
        ids = random_ids(80, seed)
        expected = model.generate(torch.tensor([ids]), generation_config=config)[0, len(ids) :].tolist()
        dense = run(model, criteria(), ids)[0]
        assert dense.tokens == [token for token in expected if token != EOS]
        assert dense.stop == ("eos" if EOS in expected else "length")


@pytest.mark.parametrize("family", ["llama", "llama_mha", "qwen3", "gemma3", "phi3"])
def test_each_row_equals_its_criterion_run_alone_in_float32(family: str) -> None:
    model = tiny_model(family, torch.float32)
    together = run(model, criteria())
    first = 0
    for group in criteria():
        for row in range(group.count):
            (alone,) = run(model, [Rows(group.criterion.take(torch.tensor([row])))])
            assert alone == together[first + row]
        first += group.count


def test_the_criteria_differ_so_that_the_tests_above_mean_something() -> None:
    answers = run(tiny_model("llama"), criteria())
    assert len({tuple(answer.tokens) for answer in answers}) > 4
    assert {answer.stop for answer in run(tiny_model("llama_mha"), criteria())} == {"eos", "length"}


def test_rows_leave_at_their_stop_and_the_others_go_on_unchanged() -> None:
    model = tiny_model("llama_mha")
    answers = run(model, criteria())
    lengths = {len(answer.tokens) for answer in answers}
    assert len(lengths) > 1 and max(lengths) == BUDGET
    longer = run(model, criteria(), budget=BUDGET + 6)
    for short, long in zip(answers, longer, strict=True):
        assert long.tokens[: len(short.tokens)] == short.tokens


def test_sparsity_counts_the_queries_with_a_bulk_up_to_the_rows_stop() -> None:
    answers = run(tiny_model("llama_mha"), criteria())
    question = len(IDS) - BOUNDARY
    for answer in answers:
        fed = len(answer.tokens) if answer.stop == "eos" else len(answer.tokens) - 1
        assert answer.queries == question + fed
    assert answers[0].sparsity == answers[0].sparsity_group == 0.0
    assert answers[1].sparsity == answers[1].sparsity_group == 1.0
    assert answers[5].sparsity == 0.5 and answers[6].sparsity == 0.75


def test_sparsity_by_layer_is_each_layers_own_and_its_mean_is_the_sparsity() -> None:
    ranking = {"layers": [0, 1, 2], "long": [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]}
    by_layer = [Rows(build({"kind": "static"}, [ranking], None))]
    [answer, *others] = run(tiny_model("llama"), [*by_layer, *criteria()])
    assert answer.sparsity_layer == [0.0, 1.0, 0.75]
    assert len({tuple(other.sparsity_layer) for other in others}) > 4
    for other in others:
        assert len(other.sparsity_layer) == 3
        assert sum(other.sparsity_layer) / 3 == pytest.approx(other.sparsity)


def test_a_kv_group_is_local_only_if_all_of_its_heads_are() -> None:
    every_other, one_of_four = run(tiny_model("llama"), criteria())[5:7]
    assert every_other.sparsity_group == 0.0 and one_of_four.sparsity_group == 0.5


def test_queries_inside_the_window_count_in_no_statistic() -> None:
    answers = answer_rows(tiny_model("llama"), IDS, BOUNDARY, criteria(), Window(16, 128), 4, [EOS])
    assert all(answer.queries == 0 and answer.sparsity != answer.sparsity for answer in answers)
    assert all(answer.tokens == answers[0].tokens for answer in answers)


def test_query_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    whole = run(model, criteria())
    monkeypatch.setattr(mass, "MAX_SCORES", 10 * 4 * 80 * 3)
    assert run(model, criteria()) == whole


def test_a_long_row_reads_all_of_its_context_and_a_local_one_none_of_its_bulk() -> None:
    model = tiny_model("llama")
    changed = [*IDS[:30], *random_ids(10, 99), *IDS[40:]]
    # Position 30-39 is bulk for every question query, but the context's own prefill is dense and sees it; with one
    # layer the window's keys cannot carry it on.
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    before, after = run(model, criteria(1)), run(model, criteria(1), changed)
    assert before[1].tokens == after[1].tokens
    assert before[0].tokens != after[0].tokens


@pytest.mark.parametrize("boundary", [0, 80])
def test_a_prompt_without_context_or_question_is_refused(boundary: int) -> None:
    with pytest.raises(ShapeError, match=f"boundary {boundary}"):
        run(tiny_model("llama"), criteria(), boundary=boundary)


def test_the_prefill_keeps_the_last_queries_of_every_layer() -> None:
    model = tiny_model("llama")
    with torch.inference_mode(), attention(model):
        short, long = (prefill_densely(model, IDS[:count]) for count in (20, 66))
        whole = prefill_densely(model, IDS[:66] + IDS[:3])
    for layer in range(3):
        assert short[layer].queries.shape[1] == 20 and long[layer].queries.shape[1] == LAST_QUERIES
        # Causal: three tokens more change nothing before them.
        torch.testing.assert_close(whole[layer].queries[:, :-3], long[layer].queries[:, 3:])
        torch.testing.assert_close(short[layer].keys, long[layer].keys[:, :20])
