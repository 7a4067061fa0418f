"""Loads weights only if they are the model's: no parameter is missing, left over, of another shape or not finite.

transformers draws a parameter at random that no file has; it also knows which tensors of older files mean nothing.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.folder import quiet, weight_files

NAMED = 3
"""Tensors that a message names; it counts the others."""
PLAIN = ("F16", "BF16", "F32", "F64")
AGAIN = "download it again, or choose another model"


class Stored(NamedTuple):
    """A tensor as the header of its file describes it."""

    shape: list[int]
    dtype: str


def check_tensors(folder: Path, config: Any) -> None:
    """Compare the names, shapes and types of a folder's tensors with the model's parameters; read no weights.

    Raises:
        AssetError: a tensor is missing, unexpected, of another shape or packed, or a file is damaged.
        UnsupportedModelError: transformers has no causal language model of this type.
    """
    with _weight_errors(folder):
        stored = _headers(folder)
        model = empty_model(config, len(stored), sum(prod(tensor.shape) for tensor in stored.values()), folder)
        tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in stored.items()}
        try:
            _, report = type(model).from_pretrained(
                None, config=config, state_dict=tensors, device_map={"": "meta"}, **REPORTED
            )
        except RuntimeError:
            report = _report_stacked(model, tensors)
            if not any(report.values()):
                raise
    _refuse_misfits(report, folder)
    _refuse_packed(model, stored, folder)


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
    stored = {} if path.is_file() else _headers(path)
    with _weight_errors(path):
        if stored and "config" in options:
            empty_model(options["config"], len(stored), sum(prod(tensor.shape) for tensor in stored.values()), path)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **REPORTED, **options
        )
    _refuse_misfits(report, path)
    _refuse_packed(model, stored, path)
    _refuse_not_finite(model.named_parameters(), path)
    return model


REPORTED = {"output_loading_info": True, "ignore_mismatched_sizes": True}
"""Options of `from_pretrained` that return names and shapes which do not fit, for one sentence of ours."""


def empty_model(config: Any, tensors: int, numbers: int, path: Path) -> PreTrainedModel:
    """Make the model without memory for its parameters.

    transformers would make what its files lack at random: gigabytes, for a wrong digit of a size.

    Args:
        config: the model's.
        tensors: how many its files hold, at least one a layer.
        numbers: in all of them.
        path: of the model, for messages.

    Raises:
        AssetError: the config makes a model of many more layers or numbers.
        UnsupportedModelError: transformers has no causal language model of this type.
    """
    layers = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layers > tensors:
        raise AssetError(f"the config of {path} makes {layers} layers, its weights are {tensors} tensors; {AGAIN}")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UnsupportedModelError(
            f"model type {config.model_type} has no causal language model in transformers; choose another model"
        ) from error
    parameters = sum(weight.numel() for weight in model.parameters())
    if parameters > 2 * numbers:  # the output's weights may be the embedding's once more
        raise AssetError(
            f"the config of {path} makes a model of {parameters:,} numbers, its weights are {numbers:,}; {AGAIN}"
        )
    return model


@contextmanager
def _weight_errors(path: Path) -> Iterator[None]:
    """Turn errors of damaged files and odd configs into one sentence; silence transformers' own report and its bars."""
    logger = logging.getLogger("transformers.modeling_utils")
    before = logger.disabled
    logger.disabled = True  # a higher level would ask transformers for one more report
    try:
        with quiet():
            yield
    except (SafetensorError, FileNotFoundError) as error:
        raise AssetError(f"the weights in {path} are damaged: {error}; download them again") from error
    except torch.OutOfMemoryError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        if "conversion of the weights" in str(error):
            raise AssetError(
                f"tensors in {path} cannot be stacked to the model's parameters (experts are stored one by one): "
                "one is missing or of another shape; download or merge the weights again"
            ) from error
        reason = " ".join(str(error).split())  # such as an unknown RoPE
        raise AssetError(
            f"no model can be built from the config of {path} ({type(error).__name__}: {reason:.200}); download it "
            "again, or choose another model"
        ) from error
    finally:
        logger.disabled = before


def _headers(folder: Path) -> dict[str, Stored]:
    """Return what the headers of a folder's files say of each tensor."""
    stored: dict[str, Stored] = {}
    with _weight_errors(folder):
        for file in sorted(weight_files(folder)):
            with safe_open(folder / file, "pt") as tensors:
                slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 - it is no mapping
                stored |= {name: Stored(part.get_shape(), part.get_dtype()) for name, part in slices.items()}
    return stored


def _refuse_packed(model: PreTrainedModel, stored: Mapping[str, Stored], path: Path) -> None:
    """Refuse parameters stored as whole numbers or in 8 bits, which mean nothing without their scales."""
    packed = {name: tensor.dtype for name, tensor in stored.items() if tensor.dtype not in PLAIN}
    own = [name for name, _ in model.named_parameters()] if packed else []
    for name, dtype in packed.items():
        if any(other == name or other.endswith(f".{name}") for other in own):
            raise AssetError(f"{name} in {path} is stored as {dtype}, only {', '.join(PLAIN)} are read; {AGAIN}")


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
