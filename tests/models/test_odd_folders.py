"""Folders with odd or damaged files are refused by one sentence, whatever the libraries behind raise."""

from pathlib import Path
from unittest.mock import patch

import pytest
from tiny_folder import edit

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.loading import load


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"max_position_embeddings": None}, AssetError, "no config that transformers can read: .*max_position_emb"),
        ({"num_attention_heads": 0}, AssetError, "no config that transformers can read|num_attention_heads is 0"),
        ({"num_key_value_heads": 0}, UnsupportedModelError, "num_key_value_heads is 0, not a number of 1 or more"),
        ({"num_hidden_layers": 0}, UnsupportedModelError, "num_hidden_layers is 0, not a number of 1 or more"),
        ({"max_position_embeddings": 32}, UnsupportedModelError, "32 positions .*, no long context"),
        ({"model_type": "magic"}, AssetError, "no config that transformers can read: .*magic"),
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
    ],
)
def test_a_damaged_json_file_is_refused_by_its_name(asset: Path, name: str, content: str, reason: str) -> None:
    (asset / "model" / name).write_text(content)
    with pytest.raises(AssetError, match=f"{name} {reason}"):
        load(asset, "float32", "cpu")


def test_weights_in_one_file_beside_others_in_parts_are_refused(asset: Path) -> None:
    model = load(asset, "float32", "cpu").model
    whole = (asset / "model" / "model.safetensors").read_bytes()
    (asset / "model" / "model.safetensors").unlink()
    model.save_pretrained(asset / "model", max_shard_size="20KB")
    load(asset, "float32", "cpu")
    (asset / "model" / "model.safetensors").write_bytes(whole)
    with pytest.raises(AssetError, match=r"weights twice, in model.safetensors and in the files of .*index.json"):
        load(asset, "float32", "cpu")
