"""What a calibrated criterion must find again in the model it is used with: sizes, RoPE parameters and weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from headscope.errors import AssetError
from headscope.models.geometry import geometry

SAMPLED = 4096
"""Numbers of a parameter that the digest reads."""


def identity(model: PreTrainedModel) -> dict[str, Any]:
    """The model in plain JSON: the fields of `Geometry`, `rope_parameters` and `weights`, their digest."""
    text = model.config.get_text_config(decoder=True)
    found = {**asdict(geometry(model.config)), "rope_parameters": getattr(text, "rope_parameters", None)}
    plain: dict[str, Any] = json.loads(json.dumps({**found, "weights": weights_digest(model)}))
    return plain


def weights_digest(model: PreTrainedModel) -> str:
    """SHA-256 of all parameters' names and shapes and of at most 4,096 evenly spaced numbers of each, as float32.

    A sample, for a digest of 16 GB would take as long as loading them: training, merging or quantising a matrix moves
    nearly all of its numbers; an edit of single ones may pass unseen. Weights that were cast to more bits are the same.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        at = torch.linspace(0, len(flat) - 1, min(SAMPLED, len(flat)), dtype=torch.float64).round().long()
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(flat[at.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def refuse_other(expected: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Check that a criterion was calibrated for this model.

    Raises:
        AssetError: a field differs.
    """
    found = identity(model)
    for name, value in expected.items():
        if found[name] != value:
            raise AssetError(
                f"the criterion was calibrated for a model with {name} = {value}, this one has {found[name]}; "
                "load that model, or calibrate again for this one"
            )
