"""A calibrated criterion as one safetensors file: tensors, and all else as JSON in its metadata.

Shapes: L full-attention layers, H query heads, P probes, D head_dim, N parameters, S sampled numbers of each.
"""

import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headscope import __version__
from headscope.errors import AssetError
from headscope.heads.calibration.maps import LayerMap

if TYPE_CHECKING:
    from headscope.inference.criterion import AdaptiveCriterion

FORMAT = 4
KEY = "headscope"
PROBES = ("queries", "weight")
WEIGHTS = "weights"


def save(criterion: "AdaptiveCriterion", path: Path) -> None:
    """Write the file: a temporary sibling, then a rename.

    Tensors: `weights` [N, S] of `headscope.models.identity`; in the layers' order, where there are probes, `queries`
    [L, H, P, D] and `weight` [L, H], float32; where there is a map, `slope` and `offset` [L, H], float64.

    Raises:
        AssetError: it cannot be written.
    """
    plain = {
        "format": FORMAT,
        "headscope": __version__,
        "name": criterion.name,
        **asdict(criterion.recipe),
        "window": asdict(criterion.window),
        "thresholds": [[target, threshold.hex()] for target, threshold in criterion.thresholds.items()],
        "prompt_tokens": list(criterion.prompt_tokens),
        "chunk": criterion.chunk,
        "model": {name: value for name, value in criterion.model.items() if name != WEIGHTS},
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(_tensors(criterion), temporary, {KEY: json.dumps(plain)})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise AssetError(f"cannot write {path}: {error}; choose another path") from error


def _tensors(criterion: "AdaptiveCriterion") -> dict[str, Tensor]:
    """Return what is no plain data, each of all layers."""
    tensors = {WEIGHTS: criterion.model[WEIGHTS]}
    if criterion.probes is not None:
        for name in PROBES:
            tensors[name] = torch.stack(list(getattr(criterion.probes, name).values()))
    if criterion.map.layers:
        for name in LayerMap._fields:
            tensors[name] = torch.stack([getattr(layer, name) for layer in criterion.map.layers.values()])
    return tensors


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and all tensors.

    Raises:
        AssetError: there is no such file, it is damaged, or of another format.
    """
    if not path.is_file():
        raise AssetError(f"{path} does not exist; make it with headscope.calibrate(...).save({str(path)!r})")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise AssetError(f"{path} holds no criterion; give a file that headscope.calibrate(...).save wrote")
            plain = json.loads(metadata[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, ValueError) as error:
        raise AssetError(f"{path} is damaged: {error}; calibrate again") from error
    if plain.get("format") != FORMAT:
        raise AssetError(
            f"{path} has format {plain.get('format')} of headscope {plain.get('headscope')}, this is {__version__} and"
            f" reads format {FORMAT}; calibrate again, or install that version"
        )
    return plain, tensors
