"""A straight line for each head takes the margin that a criterion computes to the one its threshold is compared with.

Shapes: B rows, H query heads, Q queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Plain = dict[str, Any]


class LayerMap(NamedTuple):
    """The line slope x margin + offset of each head of a layer, both float64 [H]."""

    slope: Tensor
    offset: Tensor


@dataclass(frozen=True)
class MarginMap:
    """The lines that calibration fits for a criterion; without layers margins stay as they are.

    Attributes:
        layers: the heads' lines by layer.
    """

    layers: Mapping[int, LayerMap]

    def apply(self, layer: int, margin: Tensor) -> Tensor:
        """Calibrate margins, [B, H, Q] to the same shape in float64.

        Infinite margins are certain (a query without a bulk has +inf) and stay as they are; so does NaN.

        Raises:
            KeyError: there are maps, but none for this layer.
        """
        if not self.layers:
            return margin
        slope, offset = (part.to(margin.device)[:, None] for part in self.layers[layer])
        exact = margin.double()
        return torch.where(exact.isinf(), exact, offset + slope * exact)

    def plain(self) -> Plain:
        """Return lists for calibration.json: `layers`, and `slope` and `offset` of each."""
        parts = {name: [getattr(line, name).tolist() for line in self.layers.values()] for name in LayerMap._fields}
        return {"layers": list(self.layers), **parts}

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> "MarginMap":
        """Read the `map` of a calibrated target; a target without one changes no margin."""
        if "map" not in target:
            return cls({})
        parts = [torch.tensor(target["map"][name], dtype=torch.float64) for name in LayerMap._fields]
        return cls({layer: LayerMap(*lines) for layer, *lines in zip(target["map"]["layers"], *parts, strict=True)})
