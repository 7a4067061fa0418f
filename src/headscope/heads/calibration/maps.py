"""A map for each head from the margin that a criterion sees to the one its threshold is compared with.

Shapes: B rows, L layers, H query heads, Q queries, K knots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Plain = dict[str, Any]


class LayerMap(NamedTuple):
    """Piecewise linear between knots and straight on beyond them; all float64.

    Attributes:
        knots: margins in ascending order, [H, K].
        values: calibrated margins there, [H, K].
        slope: beyond the first and the last knot, [H]; 0 clips.
    """

    knots: Tensor
    values: Tensor
    slope: Tensor


@dataclass(frozen=True)
class MarginMap:
    """What calibration fitted for a criterion; without layers it changes nothing.

    Attributes:
        layers: the heads' maps by layer.
    """

    layers: Mapping[int, LayerMap]

    def apply(self, layer: int, margin: Tensor) -> Tensor:
        """Calibrate margins, [B, H, Q] to the same shape in float64.

        Infinite margins are certain (no bulk at all is +inf) and stay as they are; so does NaN.

        Raises:
            KeyError: there are maps, but none for this layer.
        """
        if not self.layers:
            return margin
        knots, values, slope = (part.to(margin.device) for part in self.layers[layer])
        heads = margin.double().transpose(0, 1)
        flat = heads.flatten(1).contiguous()
        inside, between = knots, values
        if knots.shape[1] > 1:
            inside = flat.clamp(knots[:, :1], knots[:, -1:])
            between = _interpolated(inside, knots, values)
        found = torch.where(flat.isinf(), flat, between + slope[:, None] * (flat - inside))
        return found.view(heads.shape).transpose(0, 1)

    def plain(self) -> Plain:
        """As lists, for calibration.json: `layers`, and each part of their maps."""
        parts = {name: [getattr(found, name).tolist() for found in self.layers.values()] for name in LayerMap._fields}
        return {"layers": list(self.layers), **parts}

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> "MarginMap":
        """Read the `map` of what calibration found for a target; one without it changes nothing."""
        if "map" not in target:
            return cls({})
        parts = [torch.tensor(target["map"][name], dtype=torch.float64) for name in LayerMap._fields]
        return cls({layer: LayerMap(*found) for layer, *found in zip(target["map"]["layers"], *parts, strict=True)})


def _interpolated(inside: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Values [H, K] at the knots [H, K], linear in between, for margins [H, N] that lie between the knots: [H, N]."""
    above = torch.searchsorted(knots, inside).clamp(max=knots.shape[1] - 1)
    below = (above - 1).clamp(min=0)
    left, low = knots.gather(1, below), values.gather(1, below)
    # Heads with fewer knots repeat the last one: no width, no step.
    width = (knots.gather(1, above) - left).clamp(min=torch.finfo(torch.float64).tiny)
    return low + (values.gather(1, above) - low) * ((inside - left) / width)


def affine(slope: Tensor, offset: Tensor) -> LayerMap:
    """The straight line slope x margin + offset of each head, [H] each."""
    slope, offset = slope.double(), offset.double()
    return LayerMap(torch.zeros_like(offset)[:, None], offset[:, None], slope)
