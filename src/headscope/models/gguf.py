"""Converts a GGUF file, once, into a folder that loads as a plain bf16 model without GGUF support."""

import struct
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from headscope.errors import AssetError, HeadscopeError
from headscope.models.folder import quiet
from headscope.models.geometry import refuse_unsupported
from headscope.models.gguf_header import walk_header
from headscope.models.gguf_tokenizer import check_tokenizer, set_special_tokens
from headscope.models.weights import empty_model, read_model


def convert(gguf: Path, out: Path) -> None:
    """Write the model and tokenizer of a GGUF file as safetensors and JSON into the folder `out`.

    Raises:
        AssetError: the file is truncated or no GGUF, its model or tokenizer is unknown, transformers makes another
            tokenizer of it than the file says, or the copy computes something else.
    """
    from headscope.models.gguf_reader import fast_reader  # the package gguf comes with the extra `workflow`

    with fast_reader():
        _convert(gguf, out)


def _convert(gguf: Path, out: Path) -> None:
    fields = read_fields(gguf)
    config = _config(gguf)
    print(f"converting {gguf.name} once, which takes minutes for a large model", file=sys.stderr, flush=True)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                gguf.parent, gguf_file=gguf.name, config=config, local_files_only=True
            )
        set_special_tokens(tokenizer, fields)
        check_tokenizer(tokenizer, fields, gguf)
        model = read_model(gguf, config=config, dtype=torch.bfloat16, **_dequantised())
    except (HeadscopeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the tokenizers library raises bare Exception
        raise _unconvertible(gguf, error) from error
    expected = _logits(model)
    _forget_quantisation(model)
    with quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    del model
    if not torch.equal(_logits(read_model(out, dtype=torch.bfloat16)), expected):
        raise AssetError(f"the converted copy of {gguf} computes other logits; please report it with your versions")


def read_fields(gguf: Path) -> dict[str, Any]:
    """Read the fields of a GGUF file's header and the sizes of its tensors; return the fields by name.

    Raises:
        AssetError: the file is truncated or no GGUF file, or a part of one.
    """
    from gguf import GGUFReader

    try:
        walk_header(gguf)
        fields = {name: field.contents() for name, field in GGUFReader(gguf).fields.items()}
    except (ValueError, LookupError, TypeError, ArithmeticError, OSError, struct.error) as error:
        raise AssetError(
            f"{gguf} is truncated or no GGUF file; download it again, or name the folder of a safetensors model"
        ) from error
    if fields.get("split.count", 1) > 1:
        raise AssetError(f"{gguf} is one of {fields['split.count']} parts; merge them (llama-gguf-split --merge) first")
    return fields


def _config(gguf: Path) -> Any:
    """Return the model's config; refuse one that says a larger model than the file's tensors make."""
    from gguf import GGUFReader

    try:
        with quiet():
            config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    except Exception as error:  # transformers reads the fields as they are
        raise _unconvertible(gguf, error) from error
    refuse_unsupported(config)
    tensors = GGUFReader(gguf).tensors
    empty_model(config, len(tensors), sum(int(tensor.n_elements) for tensor in tensors), gguf)
    return config


def _unconvertible(gguf: Path, error: Exception) -> AssetError:
    reason = " ".join(str(error).split())
    return AssetError(f"{gguf} cannot be converted: {reason:.300}; choose another file or a safetensors model")


def _dequantised() -> dict[str, Any]:
    """Ask for plain weights where transformers could keep GGUF's blocks; older ones always unpack."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _forget_quantisation(model: PreTrainedModel) -> None:
    """Drop the marks of a quantised model, or the saved config would ask for GGUF again."""
    for owner in (model, model.config):
        for name in ("quantization_config", "hf_quantizer", "is_quantized", "quantization_method"):
            vars(owner).pop(name, None)


@torch.inference_mode()
def _logits(model: PreTrainedModel) -> Tensor:
    """Return the logits of a few tokens."""
    logits: Tensor = model.eval()(torch.arange(3, 19)[None]).logits
    return logits
