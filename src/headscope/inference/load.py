"""`headscope.load`: reads a calibrated criterion for the model that it was calibrated for.

Shapes: L full-attention layers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from headscope.errors import AssetError
from headscope.heads.calibration.maps import LayerMap, MarginMap
from headscope.heads.window import Window
from headscope.inference.arguments import file, require_model
from headscope.inference.criterion import AdaptiveCriterion, Recipe
from headscope.inference.criterion_file import PROBES, WEIGHTS, read
from headscope.lab.probes import ModelProbes
from headscope.models.identity import refuse_other


def load(path: str | Path, model: PreTrainedModel) -> AdaptiveCriterion:
    """Read a criterion that was saved for this model.

    Raises:
        ConfigError: the model is none of transformers that generates text, or the path is none.
        AssetError: the file is missing, damaged or of another format, or the model differs from the one it was
            calibrated for in a size, its RoPE parameters or its weights, or the window is none.
    """
    require_model(model)
    path = file("path", path)
    plain, tensors = read(path)
    identity = {**plain["model"], WEIGHTS: tensors[WEIGHTS]}
    refuse_other(identity, model)
    window, positions = Window(**plain["window"]), identity["positions"]
    if not (window.sink >= 0 and window.recent > 0 and window.sink + window.recent < positions):
        raise AssetError(f"{path} has the window {plain['window']} for {positions} positions; calibrate again")
    layers = identity["full_layers"]
    probes, maps = (_by_layer(layers, tensors, names) for names in (PROBES, LayerMap._fields))
    return AdaptiveCriterion(
        name=plain["name"],
        recipe=Recipe.of(plain),
        window=window,
        thresholds={target: float.fromhex(threshold) for target, threshold in plain["thresholds"]},
        map=MarginMap({layer: LayerMap(*found) for layer, found in maps.items()}),
        probes=ModelProbes(*({layer: found[i] for layer, found in probes.items()} for i in (0, 1))) if probes else None,
        prompt_tokens=tuple(plain["prompt_tokens"]),
        model=identity,
        chunk=plain["chunk"],
    )


def _by_layer(layers: Sequence[int], tensors: Mapping[str, Tensor], names: Sequence[str]) -> dict[int, list[Tensor]]:
    """Some tensors of each layer; nothing where the file has none of them."""
    if names[0] not in tensors:
        return {}
    return {layer: [tensors[name][i] for name in names] for i, layer in enumerate(layers)}
