"""Folders with odd or damaged files are refused by one sentence, whatever the libraries behind raise."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folder import edit

from headscope.errors import AssetError, HeadscopeError, UnsupportedModelError
from headscope.models.folder import read_config
from headscope.models.loading import load
from headscope.models.weights import check_tensors


def rope(**changes: object) -> dict[str, object]:
    """RoPE parameters of a config."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **changes}}


def longrope(short: object, long: object) -> dict[str, object]:
    """Those with a factor for each pair of numbers."""
    factors = {"short_factor": short, "long_factor": long}
    return rope(rope_type="longrope", factor=4.0, original_max_position_embeddings=64, **factors)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"max_position_embeddings": None}, AssetError, "no config that transformers can read: .*max_position_emb"),
        ({"num_attention_heads": 0}, AssetError, "no config that transformers can read|num_attention_heads is 0"),
        ({"num_key_value_heads": 0}, UnsupportedModelError, "num_key_value_heads is 0, not a number of 1 or more"),
        ({"num_hidden_layers": 0}, UnsupportedModelError, "num_hidden_layers is 0, not a number of 1 or more"),
        ({"max_position_embeddings": 32}, UnsupportedModelError, "32 positions .*, no long context"),
        ({"model_type": "magic"}, AssetError, "no config that transformers can read: .*magic"),
        ({"rms_norm_eps": 0.0}, UnsupportedModelError, "rms_norm_eps is 0.0, not a number above 0, 1 at most"),
        ({"rms_norm_eps": -1e-6}, UnsupportedModelError, "rms_norm_eps is -1e-06, not a number above 0"),
        ({"max_position_embeddings": 2**70}, UnsupportedModelError, "max_position_embeddings is 11805.*, not a number"),
        (
            {"num_hidden_layers": 2**40, "layer_types": None},
            UnsupportedModelError,
            "num_hidden_layers is 10995.*at most",
        ),
        ({"num_hidden_layers": 2000, "layer_types": None}, AssetError, "makes 2000 layers, its weights are 21 tensors"),
        (
            {"intermediate_size": 1 << 24},
            AssetError,
            "makes a model of 3,[0-9,]* numbers, its weights are 37,[0-9]*; download it",
        ),
        (
            {"intermediate_size": 2**62},
            UnsupportedModelError,
            "intermediate_size is 46116.*, not a number of 1 or more",
        ),
        (
            {"num_key_value_heads": 3},
            UnsupportedModelError,
            "num_attention_heads is 4, no multiple of its num_key_value",
        ),
        ({"text_config": {"hidden_size": 16}}, UnsupportedModelError, "transformers does not read its text_config"),
        (
            rope(rope_type="linear", factor=0.5),
            UnsupportedModelError,
            "factor of its RoPE is 0.5, not a number of 1 or",
        ),
        (
            rope(rope_type="yarn", factor=-1.0),
            UnsupportedModelError,
            "factor of its RoPE is -1.0, not a number of 1 or",
        ),
        (rope(rope_theta=-1.0), UnsupportedModelError, "rope_theta of its RoPE is -1.0, not a number above 0"),
        (longrope([1.0], [1.0]), UnsupportedModelError, "short_factor of its RoPE has 1 numbers, not 4, one for each"),
        (longrope([1.0] * 4, [0.0] * 4), UnsupportedModelError, "long_factor of its RoPE is .*, not a list of numbers"),
        (longrope(["a"] * 4, 3), HeadscopeError, "short_factor of its RoPE|no config that transformers can read"),
    ],
)
def test_an_odd_config_is_refused_by_one_sentence(asset: Path, changes: dict, error: type, reason: str) -> None:
    edit(asset / "model" / "config.json", **changes)
    with pytest.raises((error, UnsupportedModelError), match=reason) as refusal:
        load(asset, "float32", "cpu")
    assert "\n" not in str(refusal.value)


def test_a_model_that_transformers_cannot_make_is_refused_by_its_folder(asset: Path) -> None:
    with (
        patch("transformers.AutoModelForCausalLM.from_pretrained", side_effect=KeyError("magic")),
        pytest.raises(AssetError, match=r"no model can be built from the config of .*KeyError: 'magic'"),
    ):
        load(asset, "float32", "cpu")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", "[1]", "is a list"),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "has no weight_map"),
        ("model.safetensors.index.json", '{"weight_map": {"a": null}}', "names None, not a [*].safetensors beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": ["b"]}}', "names .* beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../a.safetensors"}}', "names .* beside it"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "b\\nc.safetensors"}}', "names .* beside it"),
        ("tokenizer_config.json", "[" * 5000, "is no JSON: maximum recursion depth"),
        ("generation_config.json", "{", "is no JSON"),
        (
            "generation_config.json",
            '{"eos_token_id": [2, "x"]}',
            ": eos_token_id 'x' is no token's number|eos_token_id",
        ),
    ],
)
def test_a_damaged_json_file_is_refused_by_its_name(asset: Path, name: str, content: str, reason: str) -> None:
    (asset / "model" / name).write_text(content)
    with pytest.raises(AssetError, match=f"{name} {reason}"):
        load(asset, "float32", "cpu")


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "a broken link"])
def test_what_is_no_file_is_refused_though_transformers_goes_on_without_it(
    asset: Path, name: str, folder: bool
) -> None:
    path = asset / "model" / name
    path.unlink()
    if folder:
        path.mkdir()
    else:
        path.symlink_to("gone")
    with pytest.raises(AssetError, match=f"{name} is a folder or a broken link, not a file; download it again"):
        load(asset, "float32", "cpu")


def test_weights_that_are_whole_numbers_are_refused(asset: Path) -> None:
    file = asset / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "lm_head.weight": tensors["lm_head.weight"].to(torch.int8)}, file, {"format": "pt"})
    for refused in (
        lambda: check_tensors(file.parent, read_config(file.parent)),
        lambda: load(asset, "float32", "cpu"),
    ):
        with pytest.raises(
            AssetError, match=r"lm_head.weight in .* is stored as I8, only F16, BF16, F32, F64 are read"
        ):
            refused()


def test_weights_in_one_file_beside_others_in_parts_are_refused(asset: Path) -> None:
    model = load(asset, "float32", "cpu").model
    whole = (asset / "model" / "model.safetensors").read_bytes()
    (asset / "model" / "model.safetensors").unlink()
    model.save_pretrained(asset / "model", max_shard_size="20KB")
    load(asset, "float32", "cpu")
    (asset / "model" / "model.safetensors").write_bytes(whole)
    with pytest.raises(AssetError, match=r"weights twice, in model.safetensors and in the files of .*index.json"):
        load(asset, "float32", "cpu")
