"""A straight line for each head takes the margin that a criterion computes to the one its threshold is compared with.

Only margins of lost outputs are calibrated. A line for all heads would change no ranking, so no label at any sparsity.

Shapes: B rows, H query heads, Q queries; N rows (layer, query) of one prompt, L layers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.heads.calibration.thresholds import Floats, head_means

LARGEST = 30.0
"""Log norms are cut here: an estimate that overflows says no more than a very large one."""


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

    def apply_rows(self, layers: NDArray[np.integer[Any]], margins: Floats) -> Floats:
        """Calibrate margins [N, H] of rows whose layers are given, [N]; float64."""
        calibrated = margins.astype(np.float64)
        if not self.layers:
            return calibrated
        for layer in np.unique(layers).tolist():
            rows = layers == layer
            calibrated[rows] = self.apply(layer, torch.from_numpy(calibrated[rows].T)[None])[0].T.numpy()
        return calibrated

    def plain(self) -> dict[str, Any]:
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


def energy_map(
    margins: Sequence[Floats], exact: Sequence[Floats], layers: Sequence[NDArray[np.integer[Any]]]
) -> MarginMap:
    """Weigh each head so that the mean square of its predicted losses is that of its true ones.

    Means of squares are carried by the largest losses, so that a head that is rarely needed keeps what it predicts
    then; a mean of logs, the usual offset, would pull it to its base rate. A head without any loss keeps its margins.

    Args:
        margins: minus the predicted log norm of the lost output of each prompt, [N, H].
        exact: minus the true one, [N, H]; +inf is no loss.
        layers: layer of each row, [N], of each prompt.
    """
    energies = []
    for values in (exact, margins):
        with np.errstate(invalid="ignore"):
            squares = [np.nan_to_num(np.exp(2 * np.minimum(-v.astype(np.float64), LARGEST)), nan=0.0) for v in values]
        indices, energy = head_means(squares, layers)
        energies.append(energy)
    known = (energies[0] > 0) & (energies[1] > 0)
    ratio = np.divide(energies[0], energies[1], out=np.ones_like(energies[0]), where=known)
    offsets = torch.from_numpy(-np.log(ratio) / 2)
    return MarginMap({layer: LayerMap(torch.ones_like(of), of) for layer, of in zip(indices, offsets, strict=True)})
