"""Every family of models is served rightly or refused by one sentence that says what was compared."""

import pickle

import pytest
import torch
from adaptive_cases import calibrated
from families import REFUSED, SERVED, TURNED, WITHOUT_PROBES, family_model, known
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import headscope
from headscope.errors import LengthError, UnsupportedModelError
from headscope.inference.check_answers import all_long
from headscope.inference.check_model import check_model, refuse_unverified
from headscope.models import check_weights, residual, rotary
from headscope.models.check import check_masses, check_turns, compare_logits
from headscope.models.geometry import geometry
from headscope.models.observe import CallRecorder, observe, random_tokens, run
from headscope.models.residual import path_modules
from headscope.models.rotary import refuse_changing_factors, turn


def built(families: dict, name: str) -> PreTrainedModel:
    model_type, more = families[name][:2]
    if not known(model_type):
        pytest.skip(f"this version of transformers has no {model_type}")
    return family_model(model_type, more)


def answered_alike(model: PreTrainedModel) -> bool:
    """Whether greedy tokens with every head long are the dense ones."""
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    ids = random_tokens(model, 40, 5).clamp(min=3)
    dense = model.generate(ids, **options)
    with headscope.adaptive(model, all_long(model)):
        return torch.equal(model.generate(ids, **options), dense)


@pytest.mark.parametrize("name", SERVED)
def test_a_family_is_served_rightly(name: str) -> None:
    model = built(SERVED, name)
    assert [finding for finding in check_model(model) if not finding.passed] == []
    assert answered_alike(model)
    full, ids, at = geometry(model.config).full_layers, random_tokens(model, 12, 6), torch.arange(12)
    here, there = CallRecorder(), CallRecorder()
    for recorder, first in ((here, 300), (there, 437)):
        run(model, ids, first, recorder)
    for layer in full:
        query, expected = here.calls[layer][0].query[0], there.calls[layer][0].query[0]
        error = (turn(model, layer, query, at + 300, at + 437) - expected).norm() / expected.norm()
        assert error < 1e-4, f"layer {layer} is turned wrongly"


@pytest.mark.parametrize("name", WITHOUT_PROBES)
def test_a_family_whose_probes_are_unknown_is_served_without_them_alone(name: str) -> None:
    model = built(WITHOUT_PROBES, name)
    refuse_unverified(model, probes=False)
    assert answered_alike(model)
    with pytest.raises(UnsupportedModelError, match=WITHOUT_PROBES[name][2]) as refusal:
        refuse_unverified(model, probes=True)
    assert "\n" not in str(refusal.value) and "qada" in str(refusal.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_is_not_served_is_refused_by_one_sentence(name: str) -> None:
    model = built(REFUSED, name)
    with pytest.raises(UnsupportedModelError, match=REFUSED[name][2]) as refusal:
        refuse_unverified(model, probes=False)
    assert "\n" not in str(refusal.value)


def test_calibrate_makes_the_comparisons_that_a_criterion_needs() -> None:
    model = built(WITHOUT_PROBES, "hunyuan, a norm behind RoPE")
    assert calibrated(model, "qada").recipe.kind == "qada"
    with pytest.raises(UnsupportedModelError, match=TURNED):
        calibrated(model, "lost_output")


def test_a_check_leaves_nothing_on_the_model() -> None:
    model = built(SERVED, "llama")
    before = pickle.dumps(model)
    check_model(model)
    assert len(pickle.dumps(model)) == len(before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_norm_behind_the_heads_belongs_to_their_weights() -> None:
    model = built(SERVED, "olmo2")
    assert [type(module).__name__ for module in path_modules(model, 1)] == ["Linear", "Olmo2RMSNorm"]
    samples = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    before = residual.output_path(model, 1).norms(4, samples)
    model.model.layers[1].self_attn.o_proj.weight.data *= 10  # the norm takes it back
    torch.testing.assert_close(residual.output_path(model, 1).norms(4, samples), before, rtol=1e-3, atol=0)


def test_weights_without_that_norm_are_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(SERVED, "gemma3, mostly sliding")
    assert check_weights.check_weights(model).passed
    monkeypatch.setattr(check_weights, "path_modules", lambda *words: residual.path_modules(*words)[:1])
    assert not check_weights.check_weights(model).passed


class Inside(nn.Module):
    """A module around another one."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments, **options):
        return self.inner(*arguments, **options)


def test_the_decoder_layer_is_found_around_wrapped_attention() -> None:
    model = built(SERVED, "llama")
    for layer in model.model.layers:
        layer.self_attn = Inside(layer.self_attn)
    assert observe(model)[1].block == "model.layers.1"
    refuse_unverified(model, probes=True)


def test_attention_derived_from_a_familys_is_served() -> None:
    model = built(SERVED, "llama")
    for layer in model.model.layers:
        own = type(layer.self_attn)
        layer.self_attn.__class__ = type("Own", (own,), {"__module__": "a_module_without_the_familys_functions"})
    refuse_unverified(model, probes=True)


def test_a_model_that_was_adapted_is_asked_again() -> None:
    model = built(SERVED, "llama")
    refuse_unverified(model, probes=True)
    projection = model.model.layers[1].self_attn.o_proj

    class Adapted(Inside):
        def forward(self, states):
            return self.inner(states) + states.flip(-1)

    model.model.layers[1].self_attn.o_proj = Adapted(projection)
    with pytest.raises(UnsupportedModelError, match=r"weights of heads differ .* criterion='qada'"):
        refuse_unverified(model, probes=True)
    model.model.layers[1].self_attn.o_proj = nn.Linear(32, 32, bias=False)
    refuse_unverified(model, probes=True)
    assert path_modules(model, 1) == [model.model.layers[1].self_attn.o_proj]


def test_a_model_that_stays_is_asked_once() -> None:
    model = built(SERVED, "llama")
    findings = check_model(model)
    with headscope.adaptive(model, all_long(model)):
        model.generate(random_tokens(model, 20), max_new_tokens=2)
    assert check_model(model) is findings
    assert check_model(model.half()) is not findings


def test_a_model_whose_keywords_are_copied_on_the_way_is_served() -> None:
    def copied(_, arguments, options):  # as accelerate does between devices
        return arguments, {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}

    model = built(SERVED, "llama")
    model.register_forward_pre_hook(copied, with_kwargs=True)
    refuse_unverified(model, probes=True)


@pytest.mark.parametrize("whole", [True, False])
def test_an_offloaded_model_is_refused_by_its_parameter(whole: bool) -> None:
    model = built(SERVED, "llama")
    (model if whole else model.model.layers[1]).to("meta")
    with pytest.raises(UnsupportedModelError, match=r"parameter model\..* is offloaded"):
        refuse_unverified(model, probes=False)


def test_tokens_of_the_config_without_an_embedding_are_not_tried() -> None:
    model = built(SERVED, "llama")
    model.config.vocab_size = 1000
    refuse_unverified(model, probes=True)


@pytest.mark.parametrize("pruned", [slice(8), slice(None)])
def test_a_pruned_head_counts_nothing(pruned: slice) -> None:
    model = built(SERVED, "llama")
    model.model.layers[1].self_attn.o_proj.weight.data[:, pruned] = 0
    assert check_weights.check_weights(model).passed
    norms = residual.output_path(model, 1).norms(4, torch.zeros(1, 32))
    assert norms[0] == 0 and bool(norms[1:].any()) == (pruned.stop == 8)


def test_a_turn_of_the_wrong_kind_is_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(SERVED, "cohere")
    monkeypatch.setattr(rotary, "WAYS", {"without RoPE": rotary.WAYS["without RoPE"]})
    finding = check_turns(model)
    assert not finding.passed and "is off by" in finding.unknown


def test_a_masked_token_hides_no_difference_of_the_others() -> None:
    own = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    own[..., 3] = torch.finfo(torch.float32).min
    model = built(SERVED, "llama")
    assert compare_logits(model, "logits", "others", own.clone(), own).passed
    assert not compare_logits(model, "logits", "others", own + 0.1, own).passed


def test_a_model_that_overflows_is_told_to_take_another_dtype() -> None:
    model = built(SERVED, "llama").half()
    model.lm_head.weight.data.fill_(6e4)
    with pytest.raises(UnsupportedModelError, match="NaN or infinite in float16; load it in another dtype"):
        refuse_unverified(model, probes=False)


def test_answers_are_compared_with_sdpa_where_the_own_kernel_serves_no_cache() -> None:
    def without_cache(module, query, key, value, attention_mask, **options):
        if query.shape[2] != key.shape[2]:
            raise ValueError("static caches are not served")
        return sdpa_attention_forward(module, query, key, value, None, **options)

    AttentionInterface.register("without_cache", without_cache)
    model = built(SERVED, "llama")
    model.set_attn_implementation("without_cache")
    assert all(finding.passed for finding in check_model(model))
    assert model.config._attn_implementation == "without_cache"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turns_of_deep_models_at_late_positions_are_exact(dtype: torch.dtype) -> None:
    model = family_model("llama", {"num_hidden_layers": 24, "max_position_embeddings": 1_000_000}).to(dtype)
    finding = check_turns(model)
    assert finding.passed and finding.error < {torch.float32: 1e-6, torch.bfloat16: 0.01}[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masses_of_large_scores_are_compared_in_single_precision(dtype: torch.dtype) -> None:
    model = built(SERVED, "qwen2")
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias.data *= 300  # as Qwen2.5's keys: scores of some hundreds
    finding = check_masses(model.to(dtype))
    assert finding.passed and finding.error < 1e-4


def test_masses_of_another_scale_are_found_wrong() -> None:
    model = built(SERVED, "qwen2")
    own = type(model.model.layers[1].self_attn).forward

    def rescaled(module, *arguments, **options):
        module.scaling = 0.3 if module.config._attn_implementation == "headscope" else 0.35
        return own(module, *arguments, **options)

    for layer in model.model.layers:
        layer.self_attn.forward = rescaled.__get__(layer.self_attn)
    finding = check_masses(model)
    assert finding.error > 0.005 and not finding.passed


@pytest.mark.parametrize("name", ["phi3, longrope", "llama, dynamic"])
def test_prompts_over_which_rope_changes_are_refused(name: str) -> None:
    model = built(SERVED, name)
    last = {"phi3, longrope": 64, "llama, dynamic": 512}[name]
    refuse_changing_factors(model, 40, last)
    with pytest.raises(LengthError, match=f"changes its RoPE between 40 and {last + 5} tokens"):
        refuse_changing_factors(model, 40, last + 5)


def test_longrope_prompts_beyond_the_change_are_served() -> None:
    refuse_changing_factors(built(SERVED, "phi3, longrope"), 65, 200)


def test_rope_that_never_changes_refuses_nothing() -> None:
    refuse_changing_factors(built(SERVED, "llama, yarn"), 40, 500)
