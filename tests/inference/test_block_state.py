"""A block of `adaptive` and what people do to its model and caches meanwhile: threads, copies, rows that move."""

import copy
import pickle
import threading
import time
from functools import partial

import pytest
import torch
from adaptive_cases import IDS, NEW, at, generated
from kernel_stand_in import reference_step
from test_adaptive_refusals import plain
from tiny_models import random_ids
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from headscope import adaptive
from headscope.errors import ConfigError, UnsupportedModelError
from headscope.inference import context
from headscope.inference import kernel_decode as decoding
from headscope.kernels.common import device

PROMPTS = [random_ids(60), random_ids(60, 1)]


def outcome(run):
    """What a function returns or raises."""
    try:
        return run()
    except Exception as error:
        return error


def in_thread(run):
    """What a function returns or raises in another thread."""
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome(run)))
    thread.start()
    thread.join()
    return outcomes[0]


def test_a_second_thread_is_refused_and_disturbs_nothing(model, criterion) -> None:
    before, cache, tokens = plain(model), DynamicCache(), random_ids(6, 3)
    feed = [torch.tensor([[token]] * 2) for token in tokens]

    def logits(meanwhile):
        cache = DynamicCache()
        with adaptive(model, criterion) as run, torch.no_grad():
            model(torch.tensor(PROMPTS), past_key_values=cache)
            steps = []
            for token in feed:
                meanwhile()
                steps.append(model(token, past_key_values=cache).logits)
        return torch.cat(steps), run.rows

    def second():
        for options in ({}, {"eos_token_id": tokens}, {"past_key_values": cache}):
            error = in_thread(partial(generated, model, IDS[:1], **options))
            assert isinstance(error, UnsupportedModelError) and "another thread" in str(error)

    (expected, rows), (found, counted) = logits(lambda: None), logits(second)
    assert torch.equal(found, expected) and counted == rows and plain(model) == before


def test_of_threads_that_open_blocks_at_once_one_is_served(model, criterion, monkeypatch) -> None:
    before, outcomes, barrier = plain(model), [], threading.Barrier(4, timeout=30)
    with adaptive(model, criterion):
        expected = generated(model, IDS[:1])

    class Slow(context.Session):
        def __init__(self, *args):
            super().__init__(*args)
            time.sleep(0.02)  # all others would be past the check of nested blocks

    def one():
        with adaptive(model, criterion):
            barrier.wait()
            return generated(model, IDS[:1])

    def attempt():
        barrier.wait()
        result = outcome(one)
        outcomes.append(result)
        if isinstance(result, ConfigError):
            barrier.wait()  # the block of the first one is left when all others were refused

    monkeypatch.setattr(context, "Session", Slow)
    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [each for each in outcomes if isinstance(each, ConfigError)]
    [served] = [each for each in outcomes if each not in refused]
    assert len(refused) == 3 and all("blocks do not nest" in str(error) for error in refused)
    assert torch.equal(served, expected) and plain(model) == before


MOVED = {
    "exchanged": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "dropped": lambda cache: cache.batch_select_indices(torch.tensor([1])),
    "repeated": lambda cache: cache.batch_repeat_interleave(2),
    "written": lambda cache: cache.layers[2].keys.copy_(cache.layers[2].keys.flip(0)),
}


def caches(model) -> dict:
    return {"dynamic": DynamicCache(), "static": StaticCache(model.config, max_cache_len=80)}


@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "kernels"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("act", MOVED)
def test_rows_that_move_between_steps_are_noticed(act, kind, kernels, model, criterion, monkeypatch) -> None:
    if kernels:
        monkeypatch.setattr(device, "serve", lambda *_: True)
        monkeypatch.setattr(decoding, "decide_and_attend", reference_step)
    cache, token = caches(model)[kind], torch.tensor([[9], [10]])
    with adaptive(model, criterion), torch.no_grad():
        model(torch.tensor(PROMPTS), past_key_values=cache)
        for _ in range(3):
            model(token, past_key_values=cache)
        if kind == "static" and act in ("dropped", "repeated"):  # transformers has it for dynamic caches alone
            for layer in cache.layers:
                rows = [1] if act == "dropped" else [0, 0, 1, 1]
                layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        else:
            MOVED[act](cache)
        with pytest.raises(UnsupportedModelError, match="rows of the cache were reordered, dropped, repeated"):
            model(token[: len(cache.layers[0].keys)], past_key_values=cache)


def test_rows_may_move_before_the_first_step_and_in_a_copy_of_the_cache(model, criterion) -> None:
    def steps(cache, feed):
        return torch.cat([model(torch.tensor(tokens), past_key_values=cache).logits for tokens in feed], 1)

    feed, other = [[[9], [10]], [[11], [12]]], [[[10], [9]], [[12], [11]]]
    with adaptive(model, criterion), torch.no_grad():
        caches = [model(torch.tensor(PROMPTS), past_key_values=DynamicCache()).past_key_values for _ in range(2)]
        caches[1].reorder_cache(torch.tensor([1, 0]))
        torch.testing.assert_close(steps(caches[1], other), steps(caches[0], feed).flip(0))
        caches = [copy.deepcopy(caches[0]) for _ in range(2)]
        caches[1].reorder_cache(torch.tensor([1, 0]))
        torch.testing.assert_close(steps(caches[1], other), steps(caches[0], feed).flip(0))


def test_a_cropped_cache_gets_a_boundary_where_it_ends(model, criterion) -> None:
    cache = DynamicCache()
    with adaptive(model, criterion) as run, torch.no_grad():
        model(torch.tensor(PROMPTS), past_key_values=cache)
        first, *_ = [model(torch.tensor([[9], [10]]), past_key_values=cache).logits for _ in range(4)]
        cache.crop(-4)
        again = model(torch.tensor([[9], [10]]), past_key_values=cache).logits
    assert torch.equal(again, first) and [row.queries for row in run.rows] == [4, 4, 1, 1]


def test_a_copy_made_inside_a_block_is_refused(model, criterion) -> None:
    for copied in (lambda _: copy.deepcopy(model), lambda run: pickle.dumps(run.forward)):
        refusal = pytest.raises(UnsupportedModelError, match="copy or pickle it outside")
        with adaptive(model, criterion) as run, refusal:
            copied(run)
    assert plain(copy.deepcopy(model)) == plain(model)


def test_a_model_saved_inside_a_block_is_the_plain_one(model, criterion, tmp_path) -> None:
    expected = generated(model, IDS)
    with adaptive(model, criterion):
        model.save_pretrained(tmp_path)
        config = copy.deepcopy(model.config)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plain(again) == plain(model) and torch.equal(generated(again, IDS), expected)
    inherited = AutoModelForCausalLM.from_config(config).eval()
    inherited.load_state_dict(model.state_dict())
    with adaptive(inherited, at(criterion, torch.inf)):
        assert torch.equal(generated(inherited, IDS), expected)
    assert torch.equal(generated(inherited, IDS), expected)


def test_an_empty_row_is_refused_by_its_number(model, criterion) -> None:
    for cache in ("dynamic", "static"):
        with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match="hides all of row 1, an empty"):
            generated(model, [IDS[0], [], IDS[1]], cache_implementation=cache)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_forward_that_fails_leaves_a_working_block_and_model(layer, model, criterion) -> None:
    with adaptive(model, criterion) as run:
        expected, rows = generated(model, IDS[:2]), run.rows

    def fails(*_):
        raise MemoryError

    before, cache, mlp = plain(model), DynamicCache(), model.get_decoder().layers[layer].mlp
    with adaptive(model, criterion) as run, torch.no_grad():
        model(torch.tensor(PROMPTS), past_key_values=cache)
        model(torch.tensor([[9], [10]]), past_key_values=cache)
        hook = mlp.register_forward_pre_hook(fails)
        with pytest.raises(MemoryError):
            model(torch.tensor([[9], [10]]), past_key_values=cache)
        hook.remove()
        if layer < 2:  # the layers behind it have a key less
            with pytest.raises(UnsupportedModelError, match=r"layers of the cache hold \[61, 62\] keys"):
                model(torch.tensor([[9], [10]]), past_key_values=cache)
        assert torch.equal(generated(model, IDS[:2]), expected) and run.rows[-2:] == rows
    assert plain(model) == before and len(expected[0]) == NEW
