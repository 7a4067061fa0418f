"""Decoding steps of the evaluation as graphs (taped on the CPU), against the steps one by one."""

import gc

import pytest
import torch
from tape import Tape
from test_lab_evaluation import BOUNDARY, BUDGET, GAUSSIAN, IDS, WINDOW, criteria
from tiny_models import EOS, SHAPE, random_ids, tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig

from headscope.heads.criteria import Criterion, build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.estimators.gaussian import Gaussian
from headscope.heads.moments import gaussian_log_mass
from headscope.heads.outliers import OutlierRule
from headscope.heads.selectors import build as build_selector
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.kernels.common.graph import GRAPHS
from headscope.lab import parts, replayed_steps
from headscope.lab.as_one import AsOne
from headscope.lab.evaluation import Answer, answer_prompts
from headscope.lab.parts import _plain
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix

CLUSTERS = {"kind": "clusters", "name": "c", "clusters": 4, "covariance": "diagonal", "bits": 8}
THRESHOLDS = [{"threshold": threshold} for threshold in (0.5, -0.5, -2.0)]
PROMPTS = [(random_ids(80 + 7 * seed, seed), 66 + 4 * seed) for seed in range(3)]
STOPS = [EOS, *range(5, 12)]


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Decode as on a GPU, by tapes in place of graphs."""
    Tape.made.clear()
    monkeypatch.setattr(LayerQueries, "_lazy", False)
    monkeypatch.setattr(parts, "_fused", _plain)
    return monkeypatch


def with_outliers() -> list[Rows]:
    """Rows of every kind, with the outliers of two rules."""
    lost, clusters = {"kind": "lost_output"}, build_estimator(CLUSTERS, {})
    return [
        *criteria(),
        Rows(build(lost, THRESHOLDS, clusters), OutlierRule("recent", 6, bits=4)),
        Rows(build({"kind": "oracle"}, THRESHOLDS, None), OutlierRule("last_queries", 5, shared=0.5)),
        Rows(build({"kind": "oracle_output", "unit": "group"}, THRESHOLDS, None)),
    ]


def both(taped, model, prompts, groups, window=WINDOW, budget=BUDGET, eos=STOPS, min_new=0) -> list[list[Answer]]:
    """Answers of steps one by one; those of replayed steps must be the same, sparsity and bytes included."""
    limits = window, budget, eos, min_new
    one_by_one = answer_prompts(model, prompts, groups, *limits)
    assert not Tape.made
    taped.setitem(GRAPHS, "cpu", Tape)
    # As text: what no query had a bulk for is NaN.
    assert repr(answer_prompts(model, prompts, groups, *limits)) == repr(one_by_one)
    return one_by_one


@pytest.mark.parametrize("family", ["llama", "llama_mha", "qwen3", "gemma3", "phi3"])
def test_rows_of_one_prompt_answer_as_step_by_step(family: str, taped: pytest.MonkeyPatch) -> None:
    both(taped, tiny_model(family), [(IDS, BOUNDARY)], with_outliers())
    assert sum(tape.replays for tape in Tape.made) > 10


SELECTORS = [
    {"kind": "top_keys"},
    {"kind": "pages", "size": 8},
    {"kind": "clusters", "size": 4, "bits": 16},
    {"kind": "by_importance", "rule": "last_queries"},
]


@pytest.mark.parametrize("prompts", [1, 3])
def test_rows_that_select_answer_as_step_by_step(prompts: int, taped: pytest.MonkeyPatch) -> None:
    budgets = torch.tensor([0.5, 0.8], dtype=torch.float64)
    dense = build({"kind": "dense"}, [{}] * 2, None)
    selecting = [Rows(dense, selector=build_selector(spec), budget=budgets) for spec in SELECTORS]
    both(taped, tiny_model("qwen3"), PROMPTS[:prompts], [*with_outliers(), *selecting])
    assert sum(tape.replays for tape in Tape.made) > 10


@pytest.mark.parametrize(("family", "last"), [("llama", 20), ("llama_mha", 30), ("gemma3", 60)])
def test_prompts_of_different_lengths_and_stops_answer_as_step_by_step(
    family: str, last: int, taped: pytest.MonkeyPatch
) -> None:
    answers = both(taped, tiny_model(family), PROMPTS, with_outliers(), eos=[EOS, *range(5, last)])
    assert len({len(answer.tokens) for of_prompt in answers for answer in of_prompt}) > 3
    assert len(Tape.made) == 1  # rows that stopped are no reason to tape the others again


def test_a_step_has_hardly_more_operations_for_several_prompts_than_for_one(taped: pytest.MonkeyPatch) -> None:
    counts = []
    for prompts in (PROMPTS[:1], PROMPTS):
        Tape.made.clear()
        taped.delitem(GRAPHS, "cpu", raising=False)
        both(taped, tiny_model("llama"), prompts, with_outliers())
        counts.append(len(Tape.made[0].steps))
    assert counts[1] < 1.2 * counts[0], counts


@pytest.mark.parametrize("group", [1, 2, 4, 8])
def test_any_group_size_answers_as_step_by_step(group: int, taped: pytest.MonkeyPatch) -> None:
    sizes = {**SHAPE, "num_attention_heads": 8, "num_key_value_heads": 8 // group, "head_dim": 8}
    torch.manual_seed(group)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes), dtype=torch.float64).eval()
    rows = [
        Rows(build({"kind": "oracle"}, THRESHOLDS, None)),
        Rows(build({"kind": "qada"}, THRESHOLDS, build_estimator(GAUSSIAN, {}))),
    ]
    both(taped, model, PROMPTS, rows)


@pytest.mark.parametrize(
    "window", [Window(16, 128), Window(4, 60), Window(4, 78), Window(0, 2), Window(90, 3)], ids=str
)
def test_windows_that_hold_all_keys_or_few_answer_as_step_by_step(window: Window, taped: pytest.MonkeyPatch) -> None:
    both(taped, tiny_model("llama"), PROMPTS, criteria(), window, budget=40)


@pytest.mark.parametrize("window", [Window(4, 60), Window(4, 16), Window(30, 3)], ids=str)
def test_a_prompt_may_be_shorter_than_the_window_that_others_have_left(
    window: Window, taped: pytest.MonkeyPatch
) -> None:
    prompts = [(random_ids(length, length), length - question) for length, question in ((26, 6), (150, 30), (70, 1))]
    both(taped, tiny_model("llama"), prompts, with_outliers(), window, budget=40)


class Competing(Criterion):
    """Heads of a layer compete, and each has a weight of its own."""

    def margin(self, query: torch.Tensor, view: LayerView) -> torch.Tensor:
        margin = view.window_mass - view.estimated_mass(self.estimator, query) + view.outside.double().log()
        return (margin - margin.mean(1, keepdim=True)) * torch.linspace(0.5, 2, margin.shape[1])[:, None].to(margin)


class Counting(Gaussian):
    """Believes the number in its summary, and does not say that it serves several prompts."""

    joinable = False

    def log_mass(self, query, summary, bulk_size, scale):
        assert bulk_size.ndim == 1
        mean, variance = summary.moments.score_moments(query, scale)
        return gaussian_log_mass(mean, variance, bulk_size.new_tensor(summary.count))


@pytest.mark.parametrize(("estimator", "tapes"), [(Gaussian("g"), 1), (Counting("g"), len(PROMPTS))], ids=str)
def test_what_others_wrote_decides_as_step_by_step(estimator, tapes: int, taped: pytest.MonkeyPatch) -> None:
    rows = Rows(Competing(torch.tensor([0.3, -0.2]), estimator, measures="own"))
    taped.setattr(torch.Tensor, "new_tensor", lambda x, value: torch.full((), value, dtype=x.dtype))  # does not wait
    both(taped, tiny_model("llama"), PROMPTS, [rows], eos=[])
    assert len(Tape.made) == tapes


def test_a_job_leaves_no_keys_behind_for_the_collector(taped: pytest.MonkeyPatch) -> None:
    gc.collect()
    gc.disable()
    try:
        both(taped, tiny_model("llama"), PROMPTS, criteria())
        assert not [found for found in gc.get_objects() if type(found) in (SharedPrefix, AsOne)]
    finally:
        gc.enable()


@pytest.mark.parametrize("minimum", [1, 6])
def test_stop_tokens_are_banned_from_the_first_tokens(minimum: int, taped: pytest.MonkeyPatch) -> None:
    answers = both(taped, tiny_model("llama"), PROMPTS, criteria(), eos=[EOS, *range(5, 60)], min_new=minimum)
    assert min(len(answer.tokens) for of_prompt in answers for answer in of_prompt) >= minimum


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 9, 10])
def test_answers_end_at_their_budget(budget: int, taped: pytest.MonkeyPatch) -> None:
    answers = both(taped, tiny_model("llama"), PROMPTS, criteria(), budget=budget, eos=[])
    assert {len(answer.tokens) for of_prompt in answers for answer in of_prompt} == {budget}


def test_rows_whose_summaries_stream_decode_step_by_step(taped: pytest.MonkeyPatch) -> None:
    streaming = {"kind": "qada", "summaries": "streaming"}
    rows = Rows(build(streaming, THRESHOLDS, build_estimator(GAUSSIAN, {})))
    both(taped, tiny_model("llama"), PROMPTS, [rows])
    assert not Tape.made


def test_a_step_that_waits_for_the_gpu_stays_eager_and_warns_once(taped: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    model.lm_head.register_forward_hook(lambda _module, _arguments, logits: logits if logits.any() else None)
    with pytest.warns(UserWarning, match="cannot be captured and stays slow"):
        both(taped, model, PROMPTS, criteria())
    assert len(Tape.made) == 1


def test_tokens_are_read_once_for_several_steps(taped: pytest.MonkeyPatch) -> None:
    runs, run = [], replayed_steps._Steps.run
    taped.setattr(replayed_steps._Steps, "run", lambda self, steps: runs.append(steps) or run(self, steps))
    both(taped, tiny_model("llama"), PROMPTS, criteria(), eos=[])
    assert runs == [8, 8, 7]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_graphs_on_a_gpu_answer_as_step_by_step_in_float64(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family).cuda()
    replayed = answer_prompts(model, PROMPTS, with_outliers(), WINDOW, BUDGET, STOPS)
    monkeypatch.delitem(GRAPHS, "cuda")
    one_by_one = answer_prompts(model, PROMPTS, with_outliers(), WINDOW, BUDGET, STOPS)
    for of_prompt, others in zip(replayed, one_by_one, strict=True):
        assert [answer.tokens for answer in of_prompt] == [answer.tokens for answer in others]
        assert [answer.sparsity for answer in of_prompt] == pytest.approx([answer.sparsity for answer in others])
        assert [answer.kv_bytes for answer in of_prompt] == pytest.approx([answer.kv_bytes for answer in others])
