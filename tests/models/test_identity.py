"""Which models a criterion takes for its own: the same weights in any floating point type, and no others."""

import pytest
import torch
from tiny_models import tiny_model

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.identity import identity, refuse_other

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def model(dtype: torch.dtype = torch.float32, family: str = "llama"):
    return tiny_model(family, torch.float32).to(dtype)


@pytest.mark.parametrize("calibrated", TYPES)
@pytest.mark.parametrize("running", TYPES)
def test_a_model_is_the_same_in_another_type_and_another_one_after_fine_tuning(calibrated, running) -> None:
    expected, tuned = identity(model(calibrated)), model(torch.float32)
    refuse_other(expected, model(running))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        weight = tuned.get_decoder().layers[1].self_attn.q_proj.weight
        weight += 0.01 * weight.std() * torch.randn(weight.shape, generator=generator)
    with pytest.raises(AssetError, match=r"a sampled number of model.layers.1.self_attn.q_proj.weight was .* and is"):
        refuse_other(expected, tuned.to(running))


def test_in_the_same_type_any_change_of_a_sampled_number_counts() -> None:
    expected, other = identity(model()), model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] *= 1 + 1e-6
    with pytest.raises(AssetError, match=r"a sampled number of lm_head.weight was"):
        refuse_other(expected, other)


def test_the_refusal_names_family_size_type_and_the_first_difference() -> None:
    said = "calibrated for llama of 3 layers and 29,472 weights in float32, this model is {}, and {}; load that model"
    cases = {
        ("llama_mha", "llama of 3 layers and 32,544 weights in bfloat16"): "kv_heads was 2 and is 4",
        ("qwen3", "qwen3 of 3 layers and 29,520 weights in bfloat16"): "model_type was llama and is qwen3",
    }
    for (family, description), difference in cases.items():
        with pytest.raises(AssetError, match=said.format(description, difference)):
            refuse_other(identity(model()), model(torch.bfloat16, family))


def test_parameters_that_are_missing_new_or_of_another_shape_are_named() -> None:
    expected, other = identity(model()), model()
    other.resize_token_embeddings(100, mean_resizing=False)
    with pytest.raises(AssetError, match=r"the shape of model.embed_tokens.weight was \[97, 32\] and is \[100, 32\]"):
        refuse_other(expected, other)
    other = model()
    other.get_decoder().extra = torch.nn.Linear(2, 2)
    with pytest.raises(AssetError, match=r"the shape of model.extra.weight was missing and is \[2, 2\]"):
        refuse_other(expected, other)


def test_offloaded_weights_are_refused_by_name() -> None:
    other = model()
    other.lm_head.to("meta")
    with pytest.raises(UnsupportedModelError, match=r"parameter lm_head.weight is offloaded"):
        identity(other)
