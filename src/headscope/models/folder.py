"""A folder that holds a model: config.json, safetensors, a fast tokenizer. Never remote code, never pickles."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headscope.errors import AssetError
from headscope.models.geometry import refuse_unsupported

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
KINDS = (".safetensors", ".json", ".jinja", ".model", ".txt")
OBJECTS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    INDEX,
)
"""Files that transformers reads as JSON objects; some it leaves out without a word where they are none."""


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
        AssetError: config.json or weights are missing, a link is broken or a file of JSON damaged; pickles and adapters
            are no weights.
    """
    if not folder.is_dir():
        raise AssetError(f"model folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        _refuse_adapter(folder)
        raise AssetError(
            f"model folder {folder} has no config.json; name the folder that holds it, or download it again"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        found = f", only pickles ({', '.join(pickles)}), which are never loaded" if pickles else ""
        raise AssetError(f"model folder {folder} has no weights (*.safetensors){found}; convert or download them")
    missing = sorted(name for name in weight_files(folder) if not (folder / name).is_file())
    if missing:
        raise AssetError(f"model folder {folder} lacks {', '.join(missing)}; download or merge it again")
    paths = sorted(path for path in folder.iterdir() if path.suffix in KINDS)
    for path in paths:
        if not path.is_file():
            raise AssetError(f"{path} is a folder or a broken link, not a file; download it again, or remove it")
        if path.name in OBJECTS:
            _read_json(path)
    _check_stop_tokens(folder / "generation_config.json")
    return [path.name for path in paths]


def _check_stop_tokens(file: Path) -> None:
    """Refuse stop tokens that are no numbers: an answer would never end."""
    tokens = _read_json(file).get("eos_token_id") if file.is_file() else None
    several = tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
    if wrong := [token for token in several if isinstance(token, bool) or not isinstance(token, int)]:
        raise AssetError(
            f"{file}: eos_token_id {wrong[0]!r:.40} is no number of a token; repair it or download it again"
        )


def weight_files(folder: Path) -> set[str]:
    """Return the names of the weight files: those that the folder's index lists, or the only one.

    Raises:
        AssetError: the index lists none, or another file than model.safetensors, which transformers would take instead.
    """
    index = folder / INDEX
    if not index.is_file():
        return {WHOLE}
    files: Any = _read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise AssetError(f"{index} has no weight_map; download it again")
    for file in files.values():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\\x00-\x1f]+\.safetensors", file):
            raise AssetError(f"{index} names {file!r:.80}, not a *.safetensors beside it; download it again")
    if (folder / WHOLE).is_file() and WHOLE not in files.values():
        raise AssetError(f"{folder} has weights twice, in {WHOLE} and in the files of {INDEX}; move one away")
    return set(files.values())


def read_config(folder: Path) -> Any:
    """Return the model's config, a supported model's.

    Raises:
        AssetError: config.json cannot be read, names a model type that transformers does not have, or weights that are
            packed or to be adapted.
        UnsupportedModelError: see `refuse_unsupported`.
    """
    from transformers import AutoConfig

    _check_format(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks fields by a dataclass whose errors are huggingface_hub's own
        reason = " ".join(str(error).split())
        raise AssetError(
            f"{folder / 'config.json'} is no config that transformers can read: {reason:.200}; download it again, or "
            "install a newer transformers"
        ) from error
    refuse_unsupported(config)
    return config


def _check_format(folder: Path) -> None:
    """Refuse a folder whose model is more than its plain weights: remote code, packed weights, an adapter.

    Code beside a model type that transformers has is ignored, which is said on stderr.
    """
    from transformers import CONFIG_MAPPING

    config = _read_json(folder / "config.json")
    native = config.get("model_type") in CONFIG_MAPPING
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        if file.is_file() and "auto_map" in _read_json(file):
            if not native:
                raise AssetError(f"{file} has an auto_map: remote code is never run; choose another model")
            print(f"{file}: auto_map ignored, transformers' own {config['model_type']} is used", file=sys.stderr)
    packed = config.get("quantization_config")
    if packed is not None:
        method = packed.get("quant_method", "of an unknown method") if isinstance(packed, dict) else packed
        raise AssetError(
            f"{folder / 'config.json'} has a quantization_config ({method}): packed weights are not implemented; "
            "choose the model's unquantised safetensors or a GGUF file"
        )
    _refuse_adapter(folder)


def _refuse_adapter(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise AssetError(f"{folder} has an adapter (adapter_config.json); merge it into the weights first")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # the latter: brackets nested thousands deep
        raise AssetError(f"{path} is no JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise AssetError(f"{path} is a {type(content).__name__}, not a JSON object; download it again")
    return content


def read_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer.

    Raises:
        AssetError: there is none, or none with character offsets (a "fast" one), which find where a question starts.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer("a")  # some options are read only here
    except Exception as error:  # the tokenizers library raises bare Exception on a damaged file
        reason = str(error).partition("\n")[0]
        raise AssetError(
            f"model folder {folder} has no tokenizer that transformers can read: {reason}; put the model's own there "
            "(tokenizer.json and tokenizer_config.json)"
        ) from error
    if not tokenizer.is_fast:
        raise AssetError(
            f"the tokenizer of {folder} is not a fast one, so it has no character offsets; add its tokenizer.json"
        )
    return tokenizer


def refuse_unembedded(tokenizer: Any, config: Any, folder: Path) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Special tokens that appear only where a text spells them (Gemma-3's image token) may lie beyond.

    Raises:
        AssetError: an ordinary token, or one that is put around each text or message, has no embedding.
    """
    rows = config.get_text_config(decoder=True).vocab_size
    beyond = {i: word for word, i in tokenizer.get_vocab().items() if i >= rows}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = sorted(beyond.keys() - special or beyond.keys() & _around(tokenizer)) if beyond else []
    if used:
        raise AssetError(
            f"the tokenizer of {folder} has {len(used)} tokens without an embedding: {beyond[used[0]]!r} has number "
            f"{used[0]}, the model {rows} rows; resize its embeddings, or put its own tokenizer there"
        )


def _around(tokenizer: Any) -> set[int]:
    """Return the tokens that the tokenizer and its chat template put around a text."""
    ids = set(tokenizer("a")["input_ids"])
    message = [{"role": "user", "content": "a"}]
    with suppress(Exception):  # a template that cannot write this is refused where a prompt asks for it
        ids |= set(tokenizer.apply_chat_template(message, add_generation_prompt=True)["input_ids"])
    return ids | {i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None}
