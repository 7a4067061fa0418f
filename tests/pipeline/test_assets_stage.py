"""Models from a folder or a seed: checked, converted once, or refused with nothing left behind."""

import errno
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from tiny_gguf import EXPECTED, write_tiny_gguf

from headscope.benchmarks.prose import packaged_prose
from headscope.errors import AssetError
from headscope.models.loading import load
from headscope.pipeline.stages import assets
from headscope.pipeline.store import provenance
from headscope.pipeline.store.files import atomic_folder, sha256_file
from headscope.pipeline.store.intact import problem
from headscope.pipeline.store.parents import Parents

RANDOM = {
    "type": "random",
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "hidden": 64,
    "vocab": 2000,
    "positions": 4096,
    "seed": 0,
}
RANDOM_SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "positions": 4096}


def make(results: Path, source: dict[str, Any], expect: dict[str, int], name: str = "model") -> Path:
    """Run the stage as the driver does."""
    out = results / "assets" / f"{name}--0123456789"
    with atomic_folder(out) as folder:
        assets.run({"kind": "model", "name": name, "source": source, "expect": expect}, folder, Parents([]))
    return out


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def assert_nothing_left(results: Path) -> None:
    assert not any((results / "assets").iterdir())


@pytest.mark.parametrize("kept", [0, 20, 4000, -500])
def test_a_truncated_gguf_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "weights" / "tiny.gguf"
    file.parent.mkdir()
    write_tiny_gguf(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(AssetError, match=r"tiny\.gguf is truncated or no GGUF file"):
        make(tmp_path, {"type": "folder", "path": str(file.parent)}, EXPECTED)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["tiny.gguf", "TINY.Q4_1.GGUF"])
def test_a_local_gguf_file_is_converted(tmp_path: Path, name: str) -> None:
    file = tmp_path / "weights" / name
    file.parent.mkdir()
    write_tiny_gguf(file)
    for index, path in enumerate([file, file.parent]):
        out = make(tmp_path, {"type": "folder", "path": str(path)}, EXPECTED, f"model{index}")
        assert manifest(out)["model"] == "model" and (out / "model" / "model.safetensors").is_file()
        assert manifest(out)["copied"] == {str(file): sha256_file(file)}


def test_one_of_several_gguf_files_must_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("a.gguf", "b.GGUF"):
        (folder / name).write_bytes(b"")
    with pytest.raises(AssetError, match=r"several GGUF files \(a\.gguf, b\.GGUF\); name one in model\.source\.path"):
        make(tmp_path, {"type": "folder", "path": str(folder)}, EXPECTED)
    assert_nothing_left(tmp_path)


def test_a_local_folder_is_hashed_and_used_where_it_lies(tmp_path: Path) -> None:
    model = make(tmp_path, RANDOM, RANDOM_SIZES, "random") / "model"
    out = make(tmp_path, {"type": "folder", "path": str(model)}, RANDOM_SIZES)
    assert [path.name for path in out.iterdir()] == ["manifest.json"]
    assert manifest(out)["model"] == str(model)
    assert manifest(out)["files"]["model.safetensors"] == sha256_file(model / "model.safetensors")
    assert load(out, "float32", "cpu").name == "model"
    provenance.write(out, provenance.collect(out, "code", {}, time.time()))
    assert problem(out) is None
    (model / "added_tokens.json").write_text("{}")
    assert problem(out) == f"{model}/added_tokens.json was not there when the model was fetched"


def test_a_folder_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "random", RANDOM, RANDOM_SIZES) / "model"
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.self_attn.q_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=r"missing: model\.layers\.1\.self_attn\.q_proj\.weight"):
        make(tmp_path, {"type": "folder", "path": str(model)}, RANDOM_SIZES)
    assert_nothing_left(tmp_path)


def test_a_folder_without_config_or_weights_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    source = {"type": "folder", "path": str(folder)}
    with pytest.raises(AssetError, match="mine does not exist"):
        make(tmp_path, source, RANDOM_SIZES)
    folder.mkdir()
    with pytest.raises(AssetError, match=r"mine has no config\.json"):
        make(tmp_path, source, RANDOM_SIZES)
    (folder / "config.json").write_text("{}")
    with pytest.raises(AssetError, match=r"mine has no weights \(\*\.safetensors\);"):
        make(tmp_path, source, RANDOM_SIZES)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(AssetError, match=r"only pickles \(pytorch_model\.bin\), which are never loaded"):
        make(tmp_path, source, RANDOM_SIZES)
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("field", RANDOM_SIZES)
def test_an_unexpected_model_names_field_expected_and_found(tmp_path: Path, field: str) -> None:
    with pytest.raises(AssetError, match=rf"model\.expect\.{field}=7, found {RANDOM_SIZES[field]}"):
        make(tmp_path, {**RANDOM, "vocab": 300}, {**RANDOM_SIZES, field: 7})
    assert_nothing_left(tmp_path)


def test_a_random_model_depends_on_its_source_alone(tmp_path: Path) -> None:
    first, again, other = (
        manifest(make(tmp_path, {**RANDOM, "seed": seed}, RANDOM_SIZES, f"m{index}"))["files"]
        for index, seed in enumerate([0, 0, 1])
    )
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]


def test_a_random_models_tokenizer_fits_tasks_into_short_prompts(tmp_path: Path) -> None:
    tokenizer = load(make(tmp_path, RANDOM, RANDOM_SIZES), "float32", "cpu").tokenizer
    text = packaged_prose()[:20000]
    assert len(tokenizer) == 2000
    assert len(text) / len(tokenizer(text)["input_ids"]) > 3


def test_the_text_is_the_packaged_prose(tmp_path: Path) -> None:
    assets.run({"kind": "packaged", "name": "prose", "source": "pydoc_topics"}, tmp_path, Parents([]))
    text = (tmp_path / "content").read_bytes()
    assert text.decode() == packaged_prose()
    assert manifest(tmp_path)["files"] == {"content": hashlib.sha256(text).hexdigest()}


def test_a_full_disk_is_one_clear_error_with_nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(AssetError, match="disk is full"):
        make(tmp_path, {**RANDOM, "vocab": 300}, RANDOM_SIZES)
    assert_nothing_left(tmp_path)
