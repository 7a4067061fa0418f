"""What a calibrated criterion must find again in the model it is used with: sizes, RoPE parameters and weights.

Shapes: N parameters, S sampled numbers of each.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import AssetError, UnsupportedModelError
from headscope.models.geometry import geometry, refuse_unsupported

SAMPLED = 64
"""Numbers of a parameter that are compared."""
COMPARED_APART = {"dtype", "parameters", "weights"}


def identity(model: PreTrainedModel) -> dict[str, Any]:
    """Return the model in plain JSON, but for `weights`.

    The fields of `Geometry`, `model_type`, `dtype`, `rope_parameters`, `parameters` (the shape of each, by name), and
    `weights`: float32 [N, S], evenly spaced numbers of each parameter.

    A sample, for all of 16 GB would take as long as loading them: training, merging or quantising a matrix moves
    nearly all of its numbers; an edit of single ones may pass unseen.

    Raises:
        UnsupportedModelError: the model's attention is not implemented, or a parameter is offloaded.
    """
    refuse_unsupported(model.config)
    refuse_offloaded(model)
    text, weights = model.config.get_text_config(decoder=True), dict(model.named_parameters())
    plain: dict[str, Any] = {
        "model_type": text.model_type,
        "dtype": str(model.dtype).removeprefix("torch."),
        **asdict(geometry(model.config)),
        "rope_parameters": getattr(text, "rope_parameters", None),
        "parameters": {name: list(weight.shape) for name, weight in weights.items()},
    }
    sampled = torch.stack([_sample(weight) for weight in weights.values()])
    return {**json.loads(json.dumps(plain)), "weights": sampled}


def refuse_offloaded(model: PreTrainedModel) -> None:
    """Refuse a model whose parameters are elsewhere while it does not compute.

    Raises:
        UnsupportedModelError: a parameter is.
    """
    for name, weight in model.named_parameters():
        if weight.is_meta:
            raise UnsupportedModelError(f"parameter {name} is offloaded, which is not served; load the model whole")


def _sample(weight: Tensor) -> Tensor:
    """Take evenly spaced numbers of a parameter, float32 [S]; those of a small one more than once."""
    flat = weight.detach().flatten()
    at = torch.linspace(0, len(flat) - 1, SAMPLED, dtype=torch.float64).round().long()
    return flat[at.to(flat.device)].float().cpu()


def refuse_other(expected: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Check that a criterion was calibrated for this model, be it in another floating point type.

    Raises:
        AssetError: the model differs in its family, a size, RoPE or a weight.
        UnsupportedModelError: the model's attention is not implemented, or a parameter is offloaded.
    """
    now = identity(model)
    difference = _field(expected, now) or _shape(expected["parameters"], now["parameters"]) or _weight(expected, now)
    if difference:
        raise AssetError(
            f"the criterion was calibrated for {_described(expected)}, this model is {_described(now)}, and"
            f" {difference}; load that model, or calibrate again for this one"
        )


def _described(model: Mapping[str, Any]) -> str:
    """Say family, size and type in words."""
    numbers = sum(prod(shape) for shape in model["parameters"].values())
    return f"{model['model_type']} of {model['layers']} layers and {numbers:,} weights in {model['dtype']}"


def _field(expected: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first field that differs."""
    for name in expected:
        if name not in COMPARED_APART and expected[name] != now.get(name):
            return f"{name} was {expected[name]} and is {now.get(name)}"
    return None


def _shape(expected: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> str | None:
    """Name the first parameter that is missing, new or of another shape."""
    for name in {**expected, **now}:
        before, after = (shapes.get(name, "missing") for shapes in (expected, now))
        if before != after:
            return f"the shape of {name} was {before} and is {after}"
    return None


def _weight(expected: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Name the first parameter with other numbers: any others in the same type, beyond its rounding in another one."""
    relative = absolute = 0.0
    if expected["dtype"] != now["dtype"]:
        limits = [torch.finfo(getattr(torch, model["dtype"])) for model in (expected, now)]
        relative = max(limit.eps for limit in limits)
        absolute = max(limit.smallest_normal * limit.eps for limit in limits)
    close = torch.isclose(expected["weights"], now["weights"], rtol=relative, atol=absolute, equal_nan=True)
    if close.all():
        return None
    row, column = (~close).nonzero()[0].tolist()
    before, after = (float(model["weights"][row, column]) for model in (expected, now))
    return f"a sampled number of {list(expected['parameters'])[row]} was {before:.6g} and is {after:.6g}"
