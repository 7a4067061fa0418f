import pytest
import torch
from tiny_models import CONFIGS, WIDE, random_ids, tiny_model
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig

from headscope.errors import UnsupportedModelError
from headscope.models.attention import attention
from headscope.models.check import check_logits, refuse


@pytest.mark.parametrize("family", CONFIGS)
def test_logits_equal_the_models_own_attention(family: str) -> None:
    model, ids = tiny_model(family), torch.tensor([random_ids(90)])
    with torch.inference_mode():
        own = model(ids).logits
        with attention(model):
            ours = model(ids).logits
    torch.testing.assert_close(own, ours, rtol=1e-9, atol=1e-9)
    assert check_logits(model).passed


@pytest.mark.parametrize("family", ["llama", "mistral_sliding", "gemma3"])
def test_generation_through_the_registered_function_equals_the_models_own(family: str) -> None:
    model, ids = tiny_model(family), torch.tensor([random_ids(40)])
    own = model.generate(ids, do_sample=False, max_new_tokens=12)
    with attention(model):
        assert torch.equal(model.generate(ids, do_sample=False, max_new_tokens=12), own)


def test_the_models_own_attention_is_back_after_the_block_even_after_an_error() -> None:
    model = tiny_model("llama")
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), attention(model):
        assert model.config._attn_implementation == "headscope"
        raise RuntimeError
    assert model.config._attn_implementation == before


def test_a_padded_batch_is_refused_by_name() -> None:
    model, ids = tiny_model("llama"), torch.tensor([random_ids(10)] * 2)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with attention(model), pytest.raises(UnsupportedModelError, match=r"attention_mask.*padded"):
        model(ids, attention_mask=mask)


def test_soft_capping_is_refused_by_name() -> None:
    model = AutoModelForCausalLM.from_config(Gemma2Config(**WIDE, sliding_window=12)).eval()
    with attention(model), pytest.raises(UnsupportedModelError, match=r"Gemma2Attention asks .*softcap"):
        model(torch.tensor([random_ids(10)]))


def test_learned_sinks_are_refused_by_name() -> None:
    config = GptOssConfig(**WIDE, num_local_experts=2, num_experts_per_tok=1, sliding_window=12)
    model = AutoModelForCausalLM.from_config(config).eval()
    with attention(model), pytest.raises(UnsupportedModelError, match=r"GptOssAttention asks .*s_aux"):
        model(torch.tensor([random_ids(10)]))


def test_a_model_whose_attention_differs_is_caught_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", torch.float32)
    monkeypatch.setattr("headscope.models.attention.causal_attention", lambda call: call.query * 0)
    with pytest.raises(
        UnsupportedModelError,
        match=r"logits differ from the model's own with positions from 0 on by",
    ):
        refuse(model, [check_logits(model)], probes=False)
