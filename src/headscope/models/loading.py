"""Loads the model of a finished `assets` folder, ready for the registered attention function."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from headscope.errors import ConfigError, UnsupportedModelError
from headscope.models.check import check_logits, refuse
from headscope.models.folder import model_files, read_config, read_tokenizer, refuse_unembedded
from headscope.models.observe import observe
from headscope.models.weights import read_model


@dataclass(frozen=True)
class LoadedModel:
    """A model that computes and nothing else: evaluation mode, no gradients.

    Attributes:
        model: the causal language model.
        tokenizer: its fast tokenizer.
        sha256: digest of weights, config and tokenizer, as the manifest has it.
        name: as in folders and figures.
    """

    model: PreTrainedModel
    tokenizer: Any
    sha256: str
    name: str


def load(
    asset: Path, dtype: str, device: str, device_map: str | None = None, rope: Mapping[str, Any] | None = None
) -> LoadedModel:
    """Load the model of the `assets` folder `asset`, which has a manifest.json; otherwise as `load_folder`."""
    manifest = json.loads((asset / "manifest.json").read_text(encoding="utf-8"))
    model, tokenizer = load_folder(asset / manifest["model"], dtype, device, device_map, rope)
    return LoadedModel(model, tokenizer, manifest["sha256"], manifest["name"])


def load_folder(
    folder: Path, dtype: str, device: str, device_map: str | None = None, rope: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, Any]:
    """Load model and tokenizer of a folder, and see that every layer reaches the registered attention function.

    Args:
        folder: with config.json, safetensors and a fast tokenizer.
        dtype: of weights and activations.
        device: "cpu" or "cuda"; where `device_map` is given, it only has to be there.
        device_map: how accelerate spreads layers over GPUs, or None for all on `device`.
        rope: RoPE parameters that replace the model's own, or None.

    Raises:
        AssetError: the model's files are missing, damaged or refused.
        ConfigError: the device is not there.
        UnsupportedModelError: the model's attention, or the RoPE override on it, is not implemented.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"model.device={device!r}, but torch {torch.__version__} sees no GPU; choose model.device=cpu, "
            "or install a CUDA build of torch on a machine with a GPU"
        )
    model_files(folder)
    config = read_config(folder)
    if rope is not None:
        override_rope(config, rope)
    tokenizer = read_tokenizer(folder)
    refuse_unembedded(tokenizer, config, folder)
    options = {"dtype": getattr(torch, dtype), "device_map": device_map, "attn_implementation": "sdpa"}
    model = read_model(folder, config=config, **options)
    if device_map is None:
        model = model.to(device)
    model = model.eval().requires_grad_(False)
    refuse(model, [check_logits(model)], probes=False)
    observe(model)
    return model, tokenizer


def override_rope(config: Any, rope: Mapping[str, Any]) -> None:
    """Replace the RoPE parameters of `config` in place.

    Raises:
        UnsupportedModelError: each kind of layer has a RoPE of its own, so that one override would not do.
        ConfigError: transformers finds the parameters incomplete or contradictory.
    """
    text = config.get_text_config(decoder=True)
    own = getattr(text, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in own.values()):
        raise UnsupportedModelError(
            f"model type {config.model_type} has RoPE parameters for each kind of layer; model.rope must be null"
        )
    kept = {name: own[name] for name in ("rope_theta", "partial_rotary_factor") if name in own}
    text.rope_parameters = {**kept, **{name: value for name, value in rope.items() if value is not None}}
    try:
        text.standardize_rope_params()
        text.validate_rope()
    except (KeyError, ValueError) as error:
        raise ConfigError(f"model.rope={dict(rope)} is refused by transformers: {error}") from error
