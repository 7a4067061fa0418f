"""Steps that are captured and replayed against eager ones: on the CPU by a tape of operations, on a GPU by graphs."""

from functools import partial

import pytest
import torch
from adaptive_cases import IDS, NEW, calibrated, generated, small
from kernel_stand_in import reference_step
from tape import Kernel, NoWaits, Tape, Waits, launched
from tiny_models import random_ids
from transformers import CompileConfig, DynamicCache, StaticCache

from graphed import graphed
from headscope import adaptive
from headscope.inference import cuda_graph as captured
from headscope.inference import kernel_decode as decoding
from headscope.kernels.common import device

STATIC = {"cache_implementation": "static"}


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Steps on the CPU are captured on these tapes; the reference of the kernels stands for them."""
    Tape.made.clear()
    monkeypatch.setitem(captured.GRAPHS, "cpu", Tape)
    monkeypatch.setattr(device, "serve", lambda *_: True)
    monkeypatch.setattr(decoding, "decide_and_attend", launched(reference_step))
    return Tape.made


def eager(monkeypatch: pytest.MonkeyPatch, run):
    """What a function gives without capture."""
    with monkeypatch.context() as without:
        without.delitem(captured.GRAPHS, "cpu")
        return run()


@pytest.mark.parametrize("ids", [IDS, IDS[:1]], ids=["padded", "one"])
@pytest.mark.parametrize("recipe", ["lost_output", "qada"])
def test_replayed_steps_give_the_tokens_and_labels_of_eager_ones(recipe, ids, tapes, monkeypatch) -> None:
    model = small()
    criterion = calibrated(model, recipe)

    def run():
        with adaptive(model, criterion) as found:
            return generated(model, ids, **STATIC), found.rows

    tokens, rows = eager(monkeypatch, run)
    assert not tapes
    found, counted = run()
    assert torch.equal(found, tokens) and counted == rows and 0 < sum(row.head for row in rows) < len(rows)
    assert [tape.replays for tape in tapes] == [NEW - 3]  # after the prompt's and an eager step, and the taped one


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the kernels are not interpreted")
@pytest.mark.parametrize("ids", [IDS[1:], IDS[1:2]], ids=["padded", "one"])
def test_kernels_are_launched_again_with_the_same_memory(ids, monkeypatch) -> None:
    pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")
    from headscope.kernels.decode import attend as decode
    from headscope.kernels.decode import update_clusters

    model, new = small(dtype=torch.float16), {"max_new_tokens": 5, "min_new_tokens": 5}
    criterion = calibrated(model)
    monkeypatch.setattr(decode.Workspace, "of", partial(decode.Workspace.of, programs=5))
    for module, name in (
        (decode, "decide"),
        (decode, "read_bulk"),
        (decode, "merge"),
        (update_clusters, "_update_clusters"),
    ):
        monkeypatch.setattr(module, name, Kernel(getattr(module, name)))
    monkeypatch.setattr(device, "serve", lambda *_: True)
    found = []
    for graphs in ({}, {"cpu": Tape}):
        Tape.made.clear()
        monkeypatch.setattr(captured, "GRAPHS", graphs)
        with adaptive(model, criterion) as run:
            found.append((generated(model, ids, **STATIC, **new).tolist(), repr(run.rows)))  # a NaN is no NaN
    assert found[0] == found[1] and [tape.replays for tape in Tape.made] == [2]


@pytest.mark.parametrize("ids", [IDS, IDS[:2], IDS[:1]], ids=["padded", "two", "one"])
def test_a_dense_model_is_served_too(ids, tapes) -> None:
    model = small()
    expected = generated(model, ids, **STATIC)
    with graphed(model):
        assert torch.equal(generated(model, ids, **STATIC), expected)
        assert [tape.replays for tape in tapes] == [NEW - 3]
        assert torch.equal(generated(model, ids), expected) and len(tapes) == 1
    assert "forward" not in vars(model.get_decoder()) and torch.equal(generated(model, ids, **STATIC), expected)


def prompts(length: int, rows: int, count: int) -> list[torch.Tensor]:
    return [torch.tensor([random_ids(length, 9 * i + row) for row in range(rows)]) for i in range(count)]


def rewound(model, cache: StaticCache, ids: torch.Tensor, new: int = 9) -> torch.Tensor:
    """Fill a cache densely, generate, rewind and generate again: new tokens of both."""
    found = []
    for layer in cache.layers:
        layer.cumulative_length.zero_()
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
    for _ in range(2):
        for layer in cache.layers:
            layer.cumulative_length.fill_(ids.shape[1] - 1)
        given = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        found.append(model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **given))
    return torch.cat(found)[:, ids.shape[1] :]


@pytest.mark.parametrize("recipe", ["lost_output_even", "qada"])
def test_one_graph_serves_all_boundaries_on_a_cache_that_is_rewound(recipe, tapes, monkeypatch) -> None:
    model = small()
    criterion = calibrated(model, recipe)
    texts = prompts(60, 2, 3)

    def run():
        cache = StaticCache(model.config, max_cache_len=80)
        with adaptive(model, criterion) as found:
            tokens = [rewound(model, cache, ids) for ids in texts]
        return torch.cat(tokens), found.rows

    tokens, rows = eager(monkeypatch, run)
    found, counted = run()
    assert torch.equal(found, tokens) and counted == rows
    assert [row.queries for row in rows] == [9] * 12 and rows[:2] == rows[2:4] != rows[4:6]
    assert [tape.replays for tape in tapes] == [6 * 9 - 2]  # an eager step and the taped one at the first boundary


def test_padding_may_change_between_boundaries_on_one_cache(tapes) -> None:
    model, cache = small(), StaticCache(small().config, max_cache_len=90)
    criterion = calibrated(model, "lost_output_even")
    batches = [[random_ids(60, seed), random_ids(60 - 13 * seed, 9)] for seed in (1, 2, 3)]
    alone, rows, together = [], [], []
    for ids in batches:
        with adaptive(model, criterion) as run:
            alone.append(generated(model, ids).tolist())
        rows += run.rows
    with adaptive(model, criterion) as run:
        for ids in batches:
            cache.reset()
            together.append(generated(model, ids, past_key_values=cache).tolist())
    assert together == alone and run.rows == rows
    assert [tape.replays for tape in tapes] == [3 * (NEW - 1) - 2]


def test_other_shapes_are_captured_anew(tapes, monkeypatch) -> None:
    model = small()
    criterion = calibrated(model)

    def run():
        with adaptive(model, criterion) as found:
            return [generated(model, ids, **STATIC).tolist() for ids in (IDS[:1], IDS, IDS[:2], IDS[:1])], found.rows

    assert eager(monkeypatch, run) == run()
    assert len(tapes) == 4


def test_inference_mode_is_captured_by_itself(tapes) -> None:
    model = small()
    with adaptive(model, calibrated(model)) as run:
        with torch.inference_mode():
            inside = generated(model, IDS, **STATIC)
        assert torch.equal(generated(model, IDS, **STATIC), inside)
    assert len(tapes) == 2 and run.rows[:2] == run.rows[3:5]


def test_two_caches_in_turn_are_each_their_own(tapes, monkeypatch) -> None:
    model = small()
    criterion, texts = calibrated(model), prompts(50, 1, 2)

    def run():
        with adaptive(model, criterion) as found, torch.no_grad():
            caches = [StaticCache(model.config, max_cache_len=80) for _ in texts]
            for ids, cache in zip(texts, caches, strict=True):
                model(ids, past_key_values=cache)
            tokens = [
                model(ids[:, step : step + 1], past_key_values=cache).logits.argmax(-1).item()
                for turn in range(2)
                for ids, cache in zip(texts, caches, strict=True)
                for step in range(5 * turn, 5 * turn + 5)
            ]
            return tokens, found.rows

    assert eager(monkeypatch, run) == run()
    assert len(tapes) == 4


def test_a_step_waits_for_nothing_behind_its_boundary(tapes) -> None:
    model, [ids] = small(), prompts(60, 2, 1)
    cache = StaticCache(model.config, max_cache_len=80)
    with adaptive(model, calibrated(model)) as run, torch.no_grad():
        token = model(ids, past_key_values=cache).logits[:, -1:].argmax(-1)
        for step in range(8):
            with torch.no_grad() if step < 2 else NoWaits():
                token = model(token, past_key_values=cache).logits[:, -1:].argmax(-1)
        assert [row.queries for row in run.rows] == [8, 8] and tapes[0].replays == 6
        cache.layers[0].cumulative_length.sub_(1)  # whoever writes there is asked for what
        with pytest.raises(Waits), NoWaits():
            model(token, past_key_values=cache)


def test_hidden_states_are_the_callers_own(tapes) -> None:
    model, [ids] = small(), prompts(60, 1, 1)
    decoder, cache = model.get_decoder(), StaticCache(model.config, max_cache_len=80)
    with graphed(model), torch.no_grad():
        decoder(input_ids=ids, past_key_values=cache)
        found = [decoder(input_ids=ids[:, :1], past_key_values=cache) for _ in range(5)]
    assert tapes[0].replays == 3 and all(each.past_key_values is cache for each in found)
    states = torch.cat([each.last_hidden_state for each in found])
    assert len(states.unique(dim=0)) == 5


def _hooked(model) -> dict:
    model.get_decoder().layers[1].register_forward_hook(lambda *_: None)
    return STATIC


EAGER = {
    "a dynamic cache": lambda _: {},
    "hidden states": lambda _: {**STATIC, "output_hidden_states": True, "return_dict_in_generate": False},
    "a hook": _hooked,
    "compilation": lambda _: {**STATIC, "compile_config": compiled()},
}


def compiled() -> CompileConfig:
    found = CompileConfig(backend="eager", mode=None)
    found._compile_all_devices = True
    return found


@pytest.mark.parametrize("what", EAGER)
def test_what_cannot_be_captured_is_eager(what: str, tapes) -> None:
    model = small()
    criterion = calibrated(model)
    with adaptive(model, criterion) as run:
        expected, rows = generated(model, IDS), run.rows
    options = EAGER[what](model)
    with adaptive(model, criterion) as run:
        assert torch.equal(generated(model, IDS, **options), expected) and run.rows == rows
    assert not tapes


def test_hooks_that_transformers_leaves_do_not_count(tapes) -> None:
    model = small()
    generated(model, IDS, **EAGER["hidden states"](model))
    assert any(module._forward_hooks for module in model.modules())
    with graphed(model):
        generated(model, IDS, **STATIC)
    assert tapes[0].replays == NEW - 3


def test_sliding_layers_gradients_and_growing_masks_are_eager(tapes) -> None:
    model = small("gemma3")
    expected = generated(model, IDS)
    with graphed(model):
        assert torch.equal(generated(model, IDS, **STATIC), expected)
    model, [ids] = small(), prompts(60, 1, 1)
    cache = StaticCache(model.config, max_cache_len=80)
    with graphed(model):
        model(ids, past_key_values=cache)
        for _ in range(3):
            assert model(ids[:, :1], past_key_values=cache).logits.requires_grad
        with torch.no_grad():
            for step in range(4):
                mask = torch.ones(1, 64 + step, dtype=torch.long)
                model(ids[:, :1], attention_mask=mask, past_key_values=cache)
    assert not tapes


def test_a_step_that_cannot_be_captured_stays_eager(tapes, monkeypatch) -> None:
    class Refusing(Tape):
        def capture(self, run):
            raise RuntimeError("operation not permitted when stream is capturing")

    model = small()
    criterion = calibrated(model)
    with adaptive(model, criterion) as run:
        expected, rows = generated(model, IDS), run.rows
    monkeypatch.setitem(captured.GRAPHS, "cpu", Refusing)
    with adaptive(model, criterion) as run, pytest.warns(UserWarning, match="stays slow: operation not permitted"):
        assert torch.equal(generated(model, IDS, **STATIC), expected) and run.rows == rows
    assert len(tapes) == 1


def test_what_does_not_decide_is_not_captured(tapes) -> None:
    model = small()
    with adaptive(model, calibrated(model)) as run:
        generated(model, [random_ids(20) * 4], prompt_lookup_num_tokens=3)
        cache = DynamicCache()
        model(torch.tensor([IDS[0][:1]]), past_key_values=cache)
    assert not tapes and run._captured._graph is None


def test_plain_decoding_is_not_captured(monkeypatch) -> None:
    Tape.made.clear()
    monkeypatch.setitem(captured.GRAPHS, "cpu", Tape)
    model = small()
    with adaptive(model, calibrated(model)):
        generated(model, IDS, **STATIC)
    assert not Tape.made


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [IDS, IDS[:1]], ids=["padded", "one"])
def test_graphs_on_a_gpu_give_the_tokens_and_labels_of_eager_steps(ids, dtype, monkeypatch) -> None:
    model = small(dtype=dtype).cuda()
    criterion = calibrated(model)

    def run():
        with adaptive(model, criterion) as found:
            tokens = [generated(model, ids, **STATIC).tolist() for _ in range(2)]
            graph = found._captured._graph
        with graphed(model):
            return tokens, found.rows, generated(model, ids, **STATIC).tolist(), graph

    *found, graph = run()
    monkeypatch.delitem(captured.GRAPHS, "cuda")
    *expected, without = run()
    assert found == expected and without is None
    assert (graph is not None) == (dtype == torch.bfloat16)  # plain torch waits for the GPU
