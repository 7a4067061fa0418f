"""A folder that holds a model: config.json, safetensors, a fast tokenizer. Never remote code, never pickles."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headscope.errors import AssetError
from headscope.models.geometry import refuse_unsupported

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
INDEX = "model.safetensors.index.json"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars inside the block; its warnings stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def model_files(folder: Path) -> list[str]:
    """Return the names of the files that make the model: weights, configs, tokenizer.

    Raises:
        AssetError: config.json or weights are missing; pickles are no weights.
    """
    if not folder.is_dir():
        raise AssetError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise AssetError(f"model folder {folder} has no config.json")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        found = f", only pickles ({', '.join(pickles)}), which are never loaded" if pickles else ""
        raise AssetError(f"model folder {folder} has no weights (*.safetensors){found}; convert or download them")
    missing = sorted(name for name in _shards(folder) if not (folder / name).is_file())
    if missing:
        raise AssetError(f"model folder {folder} lacks {', '.join(missing)}, which {INDEX} names; download it again")
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt")
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in kinds)


def _shards(folder: Path) -> set[str]:
    """Return the weight files that the folder's index names, if it has one."""
    index = folder / INDEX
    return set(_read_json(index)["weight_map"].values()) if index.is_file() else set()


def read_config(folder: Path) -> Any:
    """Return the model's config, a supported model's.

    Raises:
        AssetError: config.json cannot be read, asks for remote code or names an unknown model type.
        UnsupportedModelError: see `refuse_unsupported`.
    """
    from transformers import AutoConfig

    refuse_remote_code(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AssetError(f"{folder / 'config.json'} is no config that transformers can read: {error}") from error
    refuse_unsupported(config)
    return config


def refuse_remote_code(folder: Path) -> None:
    """Refuse a folder whose configs name Python code to be loaded with the model.

    Raises:
        AssetError: a config has an `auto_map`, or is no JSON.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _read_json(folder / name):
            raise AssetError(f"{folder / name} has an auto_map: the model asks for remote code, which is never run")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AssetError(f"{path} is no JSON: {error}; download it again") from error


def read_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer.

    Raises:
        AssetError: there is none, or none with character offsets (a "fast" one), which find where a question starts.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        reason = str(error).partition("\n")[0]
        raise AssetError(f"model folder {folder} has no tokenizer that transformers can read: {reason}") from error
    if not tokenizer.is_fast:
        raise AssetError(
            f"the tokenizer of {folder} is not a fast one (tokenizer.json), so it has no character offsets"
        )
    return tokenizer
