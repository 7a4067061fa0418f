"""Weights that do not fit the model are refused by their names; none is ever drawn at random."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, CLIPTextConfig, LlamaConfig, PretrainedConfig, Qwen3MoeConfig

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.folder import read_config
from headscope.models.loading import load
from headscope.models.tiny import tiny_tokenizer
from headscope.models.weights import check_tensors, read_model

SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"
Tensors = dict[str, Tensor]


@pytest.fixture
def asset(tmp_path: Path) -> Path:
    save(LlamaConfig(**SIZES), tmp_path / "model")
    tiny_tokenizer(["The quick brown fox jumps over the lazy dog."], 300).save_pretrained(tmp_path / "model")
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "tiny", "model": "model", "sha256": "a" * 64}))
    return tmp_path


def save(config: PretrainedConfig, folder: Path) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def change(folder: Path, edit: Callable[[Tensors], object]) -> None:
    """Rewrite the weights of a folder."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


FAULTS: dict[str, Callable[[Tensors], object]] = {
    rf"missing: {Q_PROJ}\)": lambda tensors: tensors.pop(Q_PROJ),
    r"missing: lm_head\.weight\)": lambda tensors: tensors.pop("lm_head.weight"),
    r"missing: model\.layers\.2\.\S+, model\S+, model\S+ and 6 more": lambda tensors: [
        tensors.pop(name) for name in list(tensors) if ".layers.2." in name
    ],
    r"unexpected: model\.layers\.3\.x\)": lambda tensors: tensors.update({"model.layers.3.x": torch.ones(2)}),
    r"of another shape: model\.norm\.weight \[7\] instead of \[32\]": lambda tensors: tensors.update(
        {"model.norm.weight": torch.ones(7)}
    ),
    r"missing: model\.norm\.weight; unexpected: norm": lambda tensors: tensors.update(
        {"norm": tensors.pop("model.norm.weight")}
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_tensor_that_does_not_fit_is_named_before_and_at_loading(asset: Path, message: str) -> None:
    change(asset / "model", FAULTS[message])
    with pytest.raises(AssetError, match=message):
        check_tensors(asset / "model", read_config(asset / "model"))
    with pytest.raises(AssetError, match=message):
        load(asset, "float32", "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(asset: Path, value: float) -> None:
    change(asset / "model", lambda tensors: tensors[Q_PROJ].__setitem__((3, 5), value))
    with pytest.raises(AssetError, match=rf"NaN or infinite \({Q_PROJ}\)"):
        load(asset, "bfloat16", "cpu")


def test_weights_that_overflow_in_the_chosen_dtype_are_named(asset: Path) -> None:
    change(asset / "model", lambda tensors: tensors[Q_PROJ].__setitem__((3, 5), 1e6))
    assert load(asset, "bfloat16", "cpu").model.dtype == torch.bfloat16
    with pytest.raises(AssetError, match=rf"\({Q_PROJ}\).*choose a dtype"):
        load(asset, "float16", "cpu")


def test_tied_weights_and_buffers_of_older_versions_are_no_fault(tmp_path: Path) -> None:
    save(LlamaConfig(**SIZES, tie_word_embeddings=True), tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    change(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    check_tensors(tmp_path, read_config(tmp_path))
    model = read_model(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight


EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (rf"missing: {EXPERT}\)", lambda tensors: tensors.pop(EXPERT)),
        (rf"of another shape: {EXPERT} \[5, 5\] instead", lambda tensors: tensors.update({EXPERT: torch.ones(5, 5)})),
    ],
)
def test_an_expert_that_does_not_fit_is_named(tmp_path: Path, message: str, fault: Callable[[Tensors], object]) -> None:
    save(Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=16), tmp_path)
    check_tensors(tmp_path, read_config(tmp_path))
    change(tmp_path, fault)
    with pytest.raises(AssetError, match=message):
        check_tensors(tmp_path, read_config(tmp_path))
    with pytest.raises(AssetError, match="cannot be stacked"):
        read_model(tmp_path)


def test_a_model_that_generates_no_text_is_refused(asset: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="clip_text_model has no causal language model"):
        check_tensors(asset / "model", CLIPTextConfig())


def test_a_damaged_file_is_refused_before_loading(asset: Path) -> None:
    weights = asset / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AssetError, match="are damaged"):
        check_tensors(asset / "model", read_config(asset / "model"))
