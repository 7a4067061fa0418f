"""A calibrated criterion as one safetensors file: tensors, and all else as JSON in its metadata.

A digest over both is beside them: a file that was damaged or edited would decide, but otherwise than it was calibrated.

Shapes: L full-attention layers, H query heads, P probes, D head_dim, N parameters, S sampled numbers of each.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from headscope import __version__
from headscope.errors import AssetError
from headscope.heads.calibration.maps import LayerMap

if TYPE_CHECKING:
    from headscope.inference.criterion import AdaptiveCriterion

FORMAT = 5
KEY, DIGEST = "headscope", "sha256"
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
            text, tensors = json.dumps(plain), _tensors(criterion)
            save_file(tensors, temporary, {KEY: text, DIGEST: digest(text, tensors)})
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


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over a file's JSON and its tensors, with their names, types and shapes, in hex."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        whole.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and all tensors, as they were saved.

    Raises:
        AssetError: there is no such file, it is damaged or was edited, or it is of another format.
    """
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise AssetError(f"{path} does not exist; make it with headscope.calibrate(...).save({str(path)!r})")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if KEY not in metadata:
            raise AssetError(f"{path} holds no criterion; give a file that headscope.calibrate(...).save wrote")
        plain = json.loads(metadata[KEY])
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path} is damaged: {' '.join(str(error).split()):.200}; calibrate again") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        _refuse_format(path, plain if isinstance(plain, dict) else {})
    if metadata.get(DIGEST) != digest(metadata[KEY], tensors):
        raise AssetError(f"{path} is damaged or was edited: it is not what headscope saved; calibrate again")
    return plain, tensors


def _refuse_format(path: Path, plain: Mapping[str, Any]) -> NoReturn:
    writer = f"{plain.get('format')!r:.40} of headscope {plain.get('headscope', 'of an unknown version')!s:.40}"
    raise AssetError(
        f"{path} has format {' '.join(writer.split())}, this is {__version__} and reads format {FORMAT}; calibrate "
        "again, or install that version"
    )
