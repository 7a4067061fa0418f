"""Queries of other prompts, kept at position 0 and turned to where they are needed."""

import pytest
import torch
from tiny_models import random_ids, tiny_model

from headscope.lab.probes import fit_probes
from headscope.models.attention import attention, causal_attention
from headscope.models.geometry import geometry
from headscope.models.rotary import turn

FAMILIES = ["llama", "qwen3", "gemma3", "phi3"]


class Queries:
    def __init__(self):
        self.by_layer = {}

    def attend(self, call):
        self.by_layer[call.layer] = call.query[0]
        return causal_attention(call)


def queries_at(model, ids, first):
    seen = Queries()
    positions = torch.arange(first, first + len(ids))[None]
    with torch.inference_mode(), attention(model):
        model(torch.tensor([ids]), position_ids=positions, use_cache=False, logits_to_keep=1, headscope=seen)
    return seen.by_layer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_turned_query_is_the_one_the_model_makes_at_that_position(family: str) -> None:
    # The first layer's queries depend on token and position alone.
    model, ids = tiny_model(family), random_ids(9)
    near, far = queries_at(model, ids, 0), queries_at(model, ids, 37)
    before = torch.arange(9)
    for layer in (0,):
        found = turn(model, layer, near[layer], before, before + 37)
        torch.testing.assert_close(found.double(), far[layer], rtol=1e-4, atol=1e-5)
        back = turn(model, layer, far[layer], before + 37, before)
        torch.testing.assert_close(back.double(), near[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_at_their_own_position_are_the_models_queries(family: str) -> None:
    model = tiny_model(family)
    prompt = (random_ids(40), 33)
    fitted = fit_probes(model, [prompt], 7)
    queries = queries_at(model, prompt[0], 0)
    full = geometry(model.config).full_layers
    assert set(fitted.queries) == set(full) == set(fitted.weight)
    for layer in full:
        for index, position in enumerate(range(33, 40)):
            probes = fitted.at(model, layer, position)
            expected = queries[layer][:, position]
            torch.testing.assert_close(probes.queries[:, index].double(), expected, rtol=1e-4, atol=1e-5)


def test_every_prompt_gives_as_many_and_the_first_and_last_query_are_among_them() -> None:
    model = tiny_model("llama")
    prompts = [(random_ids(40, seed), 30) for seed in (1, 2, 3)]
    fitted = fit_probes(model, prompts, 7)
    assert fitted.queries[0].shape[:2] == (4, 6)  # two of each prompt
    alone = fit_probes(model, prompts[1:2], 2).queries[0]
    torch.testing.assert_close(fitted.queries[0][:, 2:4], alone)
    queries = queries_at(model, prompts[1][0], 0)[0]
    expected = turn(model, 0, queries[:, [30, 39]], torch.tensor([30, 39]), torch.tensor([0, 0]))
    torch.testing.assert_close(alone, expected)


def test_a_heads_weight_is_its_share_of_the_residual_stream() -> None:
    model = tiny_model("llama", torch.float32)
    prompt = (random_ids(40), 30)
    fitted = fit_probes(model, [prompt], 4)
    states = []
    hook = model.model.layers[1].register_forward_pre_hook(lambda _, given: states.append(given[0]))
    queries_at(model, prompt[0], 0)
    hook.remove()
    residual = states[0][0, 30:].norm(dim=-1).mean()
    projection = model.model.layers[1].self_attn.o_proj.weight
    size = projection.shape[1] // 4
    for head in range(4):
        draws = torch.randn(4000, size, generator=torch.Generator().manual_seed(head))
        outputs = (draws / draws.norm(dim=1, keepdim=True)) @ projection[:, head * size : (head + 1) * size].T
        expected = outputs.norm(dim=1).square().mean().sqrt() / residual
        torch.testing.assert_close(fitted.weight[1][head], expected, rtol=0.03, atol=0)
