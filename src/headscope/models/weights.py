"""Loads weights only if they are the model's: no parameter is missing, left over, of another shape or not finite.

transformers draws a parameter at random that no file has; it also knows which tensors of older files mean nothing.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.folder import quiet, weight_files

NAMED = 3
"""Tensors that a message names; it counts the others."""


def check_tensors(folder: Path, config: Any) -> None:
    """Compare the names and shapes of a folder's tensors with the model's parameters; read no weights.

    Raises:
        AssetError: a tensor is missing, unexpected or of another shape, or a file is damaged.
        UnsupportedModelError: transformers has no causal language model of this type.
    """
    with _weight_errors(folder):
        model = _empty_model(config)
        tensors = {name: tensor for file in weight_files(folder) for name, tensor in _headers(folder / file)}
        try:
            _, report = type(model).from_pretrained(
                None, config=config, state_dict=tensors, device_map={"": "meta"}, **REPORTED
            )
        except RuntimeError:
            report = _report_stacked(model, tensors)
            if not any(report.values()):
                raise
    _refuse_misfits(report, folder)


def _report_stacked(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Compare tensors as files have them, experts one by one: transformers names none when it cannot stack them."""
    from transformers.core_model_loading import revert_weight_conversion

    stored = revert_weight_conversion(model, model.state_dict())
    pairs = {name: (tensors[name].shape, stored[name].shape) for name in stored.keys() & tensors.keys()}
    shapes = [(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]
    return {"missing_keys": stored.keys() - tensors.keys(), "unexpected_keys": set(), "mismatched_keys": shapes}


def read_model(path: Path, **options: Any) -> PreTrainedModel:
    """Load a model whose weights are whole and finite.

    Args:
        path: a model folder, or a GGUF file.
        options: of transformers' `from_pretrained`.

    Raises:
        AssetError: a tensor is missing, unexpected, of another shape or holds NaN or infinity, or a file is damaged.
    """
    if path.is_file():
        options["gguf_file"] = path.name
    folder = path.parent if path.is_file() else path
    with _weight_errors(path):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **REPORTED, **options
        )
    _refuse_misfits(report, path)
    _refuse_not_finite(model.named_parameters(), path)
    return model


REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Options of `from_pretrained` that return names and shapes which do not fit, for one sentence of ours."""


def _empty_model(config: Any) -> PreTrainedModel:
    """Make the model without memory for its parameters."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UnsupportedModelError(
            f"model type {config.model_type} has no causal language model in transformers; choose another model"
        ) from error


@contextmanager
def _weight_errors(path: Path) -> Iterator[None]:
    """Turn errors of damaged files and odd configs into one sentence; silence transformers' own report and its bars."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.disabled = True  # a higher level would ask transformers for one more report
    try:
        with quiet():
            yield
    except SafetensorError as error:
        raise AssetError(f"the weights in {path} are damaged: {error}; download them again") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # such as an unknown RoPE
        reason = " ".join(str(error).split())
        raise AssetError(
            f"no model can be built from the config of {path} ({type(error).__name__}: {reason:.200}); download it "
            "again, or choose another model"
        ) from error
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        raise AssetError(
            f"tensors in {path} cannot be stacked to the model's parameters (experts are stored one by one): "
            "one is missing or of another shape; download or merge the weights again"
        ) from error
    finally:
        logger.disabled = False


def _headers(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and an empty tensor, on the meta device, of each tensor in a file."""
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            yield name, torch.empty(tensors.get_slice(name).get_shape(), device="meta")


def _refuse_misfits(report: Mapping[str, Any], path: Path) -> None:
    shapes = [f"{name} {list(stored)} instead of {list(own)}" for name, stored, own in report["mismatched_keys"]]
    faults = {"missing": report["missing_keys"], "unexpected": report["unexpected_keys"], "of another shape": shapes}
    said = [f"{kind}: {_first(names)}" for kind, names in faults.items() if names]
    if said:
        raise AssetError(
            f"the weights in {path} do not fit the model ({'; '.join(said)}); download or merge them again"
        )


def _refuse_not_finite(weights: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Check the least and the largest number of each parameter: NaN and infinity are always among them."""
    broken = [
        name
        for name, weight in weights
        if not weight.is_meta and weight.numel() and not all(bool(end.isfinite()) for end in weight.aminmax())
    ]
    if broken:
        raise AssetError(
            f"weights in {path} are NaN or infinite ({_first(broken)}); download them again, or choose a dtype "
            "that holds their range"
        )


def _first(names: Iterable[str]) -> str:
    """Name a few tensors and count the others."""
    ordered = sorted(names)
    others = len(ordered) - NAMED
    return ", ".join(ordered[:NAMED]) + (f" and {others} more" if others > 0 else "")
