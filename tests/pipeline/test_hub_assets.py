"""A hub model stays in the hub's cache, pinned to its commit; an interrupted download leaves nothing half-done."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, serve

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.loading import load
from headscope.models.tiny import tiny_llama, tiny_tokenizer
from headscope.pipeline.stages.assets import run
from headscope.pipeline.store.files import atomic_folder
from headscope.pipeline.store.parents import Parents

SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "positions": 128}
SPEC = {
    "kind": "model",
    "name": "small",
    "source": {"type": "hub", "id": "lab/small", "revision": None},
    "expect": SIZES,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("repository")
    tiny_llama(**SIZES, hidden=32, vocab=300, seed=0).save_pretrained(folder)
    tiny_tokenizer(["The quick brown fox jumps over the lazy dog."], 300).save_pretrained(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    unwanted = {name: b"no" for name in ("pytorch_model.bin", "model.py", "onnx/model.onnx", "README.md")}
    return {**files, **unwanted, "consolidated.safetensors": b"the same once more", "original/params.json": b"{}"}


@pytest.fixture
def hub(repository: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub("lab/small", dict(repository))
    with serve(hub, monkeypatch, str(tmp_path / "cache")):
        yield hub


def fetch(tmp_path: Path, **source: str | None) -> Path:
    out = tmp_path / "results" / "assets" / "small--0123456789"
    with atomic_folder(out) as folder:
        run({**SPEC, "source": {**SPEC["source"], **source}}, folder, Parents([]))
    return out


def test_the_manifest_pins_the_commit_and_every_files_digest(hub: Hub, tmp_path: Path) -> None:
    manifest = json.loads((fetch(tmp_path) / "manifest.json").read_text())
    assert manifest["revision"] == COMMIT
    snapshot = Path(manifest["model"])
    assert snapshot.is_absolute() and snapshot.name == COMMIT
    assert set(manifest["files"]) == {path.name for path in snapshot.iterdir()}
    for name, sha256 in manifest["files"].items():
        assert sha256 == hashlib.sha256(hub.files[name]).hexdigest()


def test_only_safetensors_configs_and_tokenizers_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    fetch(tmp_path)
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(hub.fetched) == wanted | {"chat_template.jinja"}


def test_a_fetched_model_loads_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    out = fetch(tmp_path)
    asked = len(hub.fetched)
    assert load(out, "float32", "cpu").model.config.num_hidden_layers == 2
    assert len(hub.fetched) == asked


def test_a_pinned_revision_that_is_cached_is_not_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    first = (fetch(tmp_path) / "manifest.json").read_bytes()
    asked = len(hub.fetched)
    assert (fetch(tmp_path, revision=COMMIT) / "manifest.json").read_bytes() == first
    assert len(hub.fetched) == asked


def test_an_interrupted_download_leaves_nothing_and_succeeds_at_the_retry(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "model.safetensors"
    with pytest.raises(AssetError, match=r"lab/small .* cannot be fetched .* run again"):
        fetch(tmp_path)
    assert not any((tmp_path / "results" / "assets").iterdir())
    assert not any((tmp_path / "cache").rglob("*.safetensors"))
    hub.cut = None
    assert load(fetch(tmp_path), "float32", "cpu").name == "small"


def test_the_token_comes_from_the_environment(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(AssetError, match="HF_TOKEN"):
        fetch(tmp_path)
    assert hub.tokens == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in (fetch(tmp_path) / "manifest.json").read_text()


def test_a_repository_that_asks_for_remote_code_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    config = json.loads(hub.files["config.json"])
    hub.files["config.json"] = json.dumps(
        {**config, "model_type": "no_such_model", "auto_map": {"AutoModel": "model.Model"}}
    ).encode()
    with pytest.raises(AssetError, match=r"lab/small.*remote code"):
        fetch(tmp_path)
    assert "model.safetensors" not in hub.fetched


def test_an_unsupported_model_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    config = {"model_type": "gemma2", "num_hidden_layers": 2}
    hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(UnsupportedModelError, match="attn_logit_softcapping"):
        fetch(tmp_path)
    assert "model.safetensors" not in hub.fetched


def test_a_repository_without_safetensors_is_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    del hub.files["model.safetensors"], hub.files["consolidated.safetensors"]
    with pytest.raises(AssetError, match=r"lab/small.*no weights \(\*\.safetensors\)"):
        fetch(tmp_path)


def test_an_unknown_repository_or_revision_is_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="lab/missing"):
        fetch(tmp_path, id="lab/missing")
    with pytest.raises(AssetError, match="no-such-branch"):
        fetch(tmp_path, revision="no-such-branch")
    with pytest.raises(AssetError, match="not a name"):
        fetch(tmp_path, id="not a name")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_damaged_in_the_cache_is_fetched_again(hub: Hub, tmp_path: Path, name: str) -> None:
    snapshot = Path(json.loads((fetch(tmp_path) / "manifest.json").read_text())["model"])
    content = hub.files[name]
    (snapshot / name).resolve().write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    hub.fetched.clear()
    assert json.loads((fetch(tmp_path) / "manifest.json").read_text())["model"] == str(snapshot)
    assert hub.fetched == [name] and (snapshot / name).read_bytes() == content
