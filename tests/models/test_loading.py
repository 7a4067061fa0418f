"""A model loads from local safetensors alone, or is refused with a reason."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import save_file
from tiny_folder import SIZES, TEXTS, edit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GptOssConfig,
    JambaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)

from headscope.errors import AssetError, ConfigError, UnsupportedModelError
from headscope.models.folder import read_config
from headscope.models.geometry import geometry, refuse_unsupported
from headscope.models.loading import load
from headscope.models.tiny import tiny_llama, tiny_tokenizer

SMALL = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "foo"},
            "is no config that transformers can read: .*`foo`.*; download it again, or install a new",
        ),
        ({"hidden_size": "32"}, "is no config that transformers can read: .*'hidden_size' expected int, got str"),
        ({"hidden_size": 30}, "is no config that transformers can read: .* not a multiple of the number of attention"),
        ({"rope_parameters": {"rope_type": "linaer", "rope_theta": 1e4}}, "no model can be built from .*: 'linaer'"),
    ],
    ids=str,
)
def test_a_config_that_nothing_can_be_made_of_is_refused_by_one_line(asset: Path, change: dict, message: str) -> None:
    edit(asset / "model" / "config.json", **change)
    with pytest.raises(AssetError, match=message) as refusal:
        load(asset, "float32", "cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", ["[]", "{}", "{"])
def test_json_without_what_it_should_hold_is_refused_by_its_file(asset: Path, file: str, content: str) -> None:
    (asset / "model" / file).write_text(content)
    with pytest.raises(AssetError, match=file):
        load(asset, "float32", "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_model_loads_for_computing_only_in_the_dtype_asked_for(asset: Path, dtype: str) -> None:
    loaded = load(asset, dtype, "cpu")
    assert loaded.model.dtype == getattr(torch, dtype)
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert (loaded.name, loaded.sha256) == ("tiny", "a" * 64)


def test_a_loaded_model_computes_what_the_saved_one_did(asset: Path) -> None:
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(load(asset, "float32", "cpu").model(ids).logits, tiny_llama(**SIZES)(ids).logits)


def test_a_device_map_is_passed_on(asset: Path) -> None:
    with patch.object(AutoModelForCausalLM, "from_pretrained", wraps=AutoModelForCausalLM.from_pretrained) as called:
        load(asset, "float32", "cpu", device_map="auto")
    assert called.call_args.kwargs["device_map"] == "auto"


def test_loading_writes_no_progress_and_no_chatter(asset: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(asset, "float32", "cpu")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn"])
def test_a_rope_override_replaces_the_models_own(asset: Path, rope_type: str) -> None:
    rope = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 5e5, "original_max_position_embeddings": None}
    model = load(asset, "float32", "cpu", rope=rope).model
    assert model.config.rope_parameters["rope_type"] == model.model.rotary_emb.rope_type == rope_type
    assert model.config.rope_parameters["factor"] == 2.0
    assert model.config.rope_parameters["rope_theta"] == 5e5


def test_a_linear_override_stretches_positions_exactly(asset: Path) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    own, stretched = load(asset, "float32", "cpu").model, load(asset, "float32", "cpu", rope=rope).model
    assert torch.allclose(stretched.model.rotary_emb.inv_freq * 4, own.model.rotary_emb.inv_freq)


def test_an_impossible_rope_override_is_refused(asset: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.rope"):
        load(asset, "float32", "cpu", rope={"rope_type": "linear", "rope_theta": 1e4})


def test_one_rope_override_cannot_serve_two_kinds_of_layers() -> None:
    from headscope.models.loading import override_rope

    with pytest.raises(UnsupportedModelError, match="each kind of layer"):
        override_rope(Gemma3TextConfig(), {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_one_clear_error(asset: Path) -> None:
    with pytest.raises(ConfigError, match=r"sees no GPU; choose model\.device=cpu"):
        load(asset, "float32", "cuda")


def test_damaged_weights_are_refused(asset: Path) -> None:
    weights = asset / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(AssetError, match=r"weights in .* are damaged"):
        load(asset, "float32", "cpu")


def test_a_folder_that_went_away_is_refused(asset: Path) -> None:
    (asset / "manifest.json").write_text(json.dumps({"model": str(asset / "gone"), "name": "x", "sha256": ""}))
    with pytest.raises(AssetError, match="gone does not exist"):
        load(asset, "float32", "cpu")


def test_a_missing_shard_is_named(asset: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (asset / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AssetError, match="lacks model-00002-of-00002"):
        load(asset, "float32", "cpu")


def test_pickles_are_never_loaded(asset: Path) -> None:
    (asset / "model" / "model.safetensors").rename(asset / "model" / "pytorch_model.bin")
    with pytest.raises(AssetError, match=r"only pickles \(pytorch_model\.bin\)"):
        load(asset, "float32", "cpu")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_beside_a_model_that_transformers_has_is_ignored_and_said(
    asset: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
    edit(asset / "model" / file, auto_map=code)
    (asset / "model" / "evil.py").write_text("raise SystemExit('remote code ran')")
    ids = torch.arange(3, 40)[None]
    assert torch.equal(load(asset, "float32", "cpu").model(ids).logits, tiny_llama(**SIZES)(ids).logits)
    assert capsys.readouterr().err.endswith(f"{file}: auto_map ignored, transformers' own llama is used\n")


def test_a_model_of_remote_code_alone_is_refused(asset: Path) -> None:
    edit(asset / "model" / "config.json", auto_map={"AutoModel": "evil.Model"}, model_type="no_such_model")
    with pytest.raises(AssetError, match="remote code is never run"):
        load(asset, "float32", "cpu")


def test_packed_weights_and_adapters_are_refused_by_name(asset: Path) -> None:
    (asset / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(AssetError, match=r"adapter_config\.json.*merge it"):
        load(asset, "float32", "cpu")
    edit(asset / "model" / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(AssetError, match=r"quantization_config \(gptq\)"):
        load(asset, "float32", "cpu")


def add_tokens(asset: Path, special: bool) -> PreTrainedTokenizerFast:
    tokenizer = load(asset, "float32", "cpu").tokenizer
    tokenizer.add_tokens(["<image>", "<sound>"], special_tokens=special)
    return tokenizer


def test_tokens_beyond_the_embedding_are_refused_by_name(asset: Path) -> None:
    add_tokens(asset, special=False).save_pretrained(asset / "model")
    with pytest.raises(AssetError, match="2 tokens without an embedding: '<image>' has number 300, the model 300"):
        load(asset, "float32", "cpu")


def test_special_tokens_beyond_the_embedding_are_refused_only_where_a_prompt_holds_them(asset: Path) -> None:
    tokenizer = add_tokens(asset, special=True)
    tokenizer.save_pretrained(asset / "model")
    assert len(load(asset, "float32", "cpu").tokenizer) == 302
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<sound>")
    tokenizer.save_pretrained(asset / "model")
    with pytest.raises(AssetError, match=r"1 tokens without an embedding: '<sound>'"):
        load(asset, "float32", "cpu")


def test_a_model_without_a_tokenizer_is_refused(asset: Path) -> None:
    for file in (asset / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(AssetError, match="no tokenizer"):
        load(asset, "float32", "cpu")


def test_an_unknown_model_type_is_refused(asset: Path) -> None:
    edit(asset / "model" / "config.json", model_type="no_such_model")
    with pytest.raises(AssetError, match="no_such_model"):
        read_config(asset / "model")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(**SMALL), "attn_logit_softcapping"),
        (GptOssConfig(**SMALL), "sinks"),
        (JambaConfig(), "linear_attention"),
        (T5Config(), "encoder-decoder"),
        (MistralConfig(**SMALL, sliding_window=12), "every layer slides"),
        (PretrainedConfig(), "no attention heads"),
    ],
    ids=lambda value: value.model_type if isinstance(value, PretrainedConfig) else "",
)
def test_attention_that_is_not_implemented_is_refused_by_name(config: PretrainedConfig, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        refuse_unsupported(config)


@pytest.mark.parametrize(
    ("config", "full"),
    [
        (LlamaConfig(**SMALL), (0, 1, 2)),
        (MistralConfig(**SMALL, sliding_window=None), (0, 1, 2)),
        (MistralConfig(**SMALL, sliding_window=12), ()),
        (Phi3Config(**SMALL, sliding_window=12, pad_token_id=0), ()),
        (Qwen2Config(**SMALL, sliding_window=12, use_sliding_window=False), (0, 1, 2)),
        (Qwen2Config(**SMALL, sliding_window=12, use_sliding_window=True, max_window_layers=1), (0,)),
        (Gemma3TextConfig(**SMALL, layer_types=["sliding_attention", "full_attention", "sliding_attention"]), (1,)),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_full_attention_layers_are_found(config: PretrainedConfig, full: tuple[int, ...]) -> None:
    assert geometry(config).full_layers == full


def test_sizes_are_read_from_the_text_part_of_a_multimodal_config() -> None:
    text = Gemma3TextConfig(**SMALL, head_dim=16, max_position_embeddings=99)
    found = geometry(Gemma3Config(text_config=text))
    assert (found.layers, found.heads, found.kv_heads, found.head_dim, found.positions) == (3, 4, 2, 16, 99)


def test_head_dim_and_kv_heads_have_their_defaults() -> None:
    config = AutoConfig.for_model("gpt_neox", num_attention_heads=4, hidden_size=64, num_hidden_layers=2)
    found = geometry(config)
    assert (found.kv_heads, found.head_dim) == (4, 16)


def test_the_tiny_model_depends_on_its_arguments_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    models = [tiny_llama(**SIZES), tiny_llama(**SIZES), tiny_llama(**{**SIZES, "seed": 1})]
    assert torch.equal(torch.get_rng_state(), before)
    for index, model in enumerate(models):
        save_file(dict(model.state_dict()), tmp_path / str(index))
    first, second, other = ((tmp_path / str(index)).read_bytes() for index in range(3))
    assert first == second != other


def test_the_tiny_tokenizer_writes_chat_and_gives_text_back() -> None:
    tokenizer = tiny_tokenizer(TEXTS, 300)
    messages = [{"role": "user", "content": "naïve café 12"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nnaïve café 12<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nnaïve café 12\nassistant\n"
