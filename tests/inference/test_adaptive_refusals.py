"""What `adaptive` refuses, by name and before it gives wrong output; and what a block leaves behind."""

import pytest
import torch
from adaptive_cases import IDS, at, calibrated, generated, small
from tiny_models import random_ids
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from headscope import adaptive
from headscope.errors import AssetError, ConfigError, UnsupportedModelError


def plain(model) -> tuple:
    """All that a block changes of a model."""
    return (
        model.config._attn_implementation,
        "forward" in vars(model.get_decoder()),
        {"_prepare_special_tokens", "_valid_auto_compile_criteria"} & set(vars(model)),
    )


def test_a_block_leaves_the_model_as_it_was_even_after_an_error(model, criterion) -> None:
    before, expected = plain(model), generated(model, IDS)
    with adaptive(model, at(criterion, -torch.inf)):
        assert plain(model) != before and not torch.equal(generated(model, IDS), expected)
    assert plain(model) == before and torch.equal(generated(model, IDS), expected)
    with pytest.raises(KeyError), adaptive(model, criterion):
        raise KeyError
    assert plain(model) == before and torch.equal(generated(model, IDS), expected)


def test_blocks_do_not_nest(model, criterion) -> None:
    before = plain(model)
    inside = pytest.raises(ConfigError, match="inside an `adaptive` block already; leave it")
    with inside, adaptive(model, criterion), adaptive(model, criterion):
        pass
    with adaptive(model, criterion), pytest.raises(ConfigError, match="blocks do not nest"):
        calibrated(model)
    assert plain(model) == before


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beams_are_refused(cache, model, criterion) -> None:
    with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match="as num_beams > 1 does"):
        generated(model, IDS, num_beams=2, cache_implementation=cache)


def test_masks_that_are_no_left_padding_are_refused(model, criterion) -> None:
    tokens = torch.tensor([random_ids(60), random_ids(60, 1)])
    right, hole = torch.ones_like(tokens), torch.ones_like(tokens)
    right[0, 50:], hole[1, 30] = 0, 0
    for mask in (right, hole):
        for cache in ("dynamic", "static"):
            with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match="pad on the left"):
                model.generate(tokens, attention_mask=mask, max_new_tokens=3, cache_implementation=cache)
    added = torch.zeros(2, 1, 1, 61)
    with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match=r"4 dimensions and torch.float32"):
        cache = model(tokens).past_key_values
        model(tokens[:, :1], attention_mask=added, past_key_values=cache)


def test_caches_that_do_not_hold_the_keys_as_they_are_are_refused(model, criterion) -> None:
    class Quantised(DynamicLayer):
        pass

    tokens, cache = torch.tensor(IDS[:1]), DynamicCache()
    cache.layer_class_to_replicate = Quantised
    with (
        adaptive(model, criterion),
        pytest.raises(UnsupportedModelError, match="a DynamicCache of Quantised is not served"),
    ):
        model.generate(tokens, past_key_values=cache, max_new_tokens=3)
    cache = StaticCache(model.config, max_cache_len=99)
    with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match="StaticCache of offloaded layers"):
        model(tokens, past_key_values=cache)
        cache.offloading = True
        model(tokens[:, :1], past_key_values=cache)


def test_a_model_in_training_mode_is_refused(model, criterion) -> None:
    with pytest.raises(ConfigError, match=r"call model.eval\(\)"), adaptive(model.train(), criterion):
        pass
    with adaptive(model.eval(), criterion), pytest.raises(ConfigError, match=r"call model.eval\(\)"):
        model.train()(torch.tensor(IDS[:1]))
    model.eval()


def test_targets_that_were_not_calibrated_are_refused(model, criterion) -> None:
    before = plain(model)
    unknown = pytest.raises(ConfigError, match=r"sparsity=0.9 was not calibrated, only 0.3, 0.7")
    with unknown, adaptive(model, criterion, 0.9):
        pass
    assert plain(model) == before


def test_another_model_is_refused(criterion) -> None:
    for family, field in (("llama_mha", "kv_heads was 2 and is 4"), ("mistral", "model_type was llama and is mistral")):
        with pytest.raises(AssetError, match=f"for llama of 3 layers .* {field}"), adaptive(small(family), criterion):
            pass


def test_models_that_no_criterion_serves_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="every layer slides"):
        calibrated(small("mistral_sliding"))
