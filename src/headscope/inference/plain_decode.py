"""A batch that decodes in plain torch, row after row, by the lab's engine: right everywhere, and slower than dense.

It serves what the kernels do not: CPUs, single precision, criteria that they cannot express.

Shapes: B rows, H query heads, K KV heads, T keys that a cache can hold, D head_dim.
"""

import torch
from torch import Tensor

from headscope.heads.bulk import LayerCache
from headscope.heads.to_device import to_device
from headscope.inference.boundary import Batch
from headscope.lab.counts import ReadingCounts, Shares, Sizes
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import LayerCall
from headscope.models.observe import scales_of


class PlainDecode:
    """Rows of one batch from their boundary on; handed to the attention function as its keyword `headscope`.

    Attributes:
        layers: factor of the scores of the full-attention layers.
    """

    def __init__(self, batch: Batch, sizes: Sizes, stops: Tensor):
        """Start behind a boundary; `stops` are tokens that end a row's count."""
        self.layers = scales_of(batch.model)
        self._boundary = self._length = batch.spans[0][1]
        self._stops, self._counts = stops, ReadingCounts(len(batch.spans), sizes)
        rows = [Rows(batch.built, batch.criterion.recipe.outliers)]
        self._rows = [
            SharedPrefix(self._prefix(batch, row), rows, sizes.window, self._counts.of_row(row))
            for row in range(len(batch.spans))
        ]

    def _prefix(self, batch: Batch, row: int) -> dict[int, LayerCache]:
        """Return the keys and values of one row at the boundary, by layer."""
        prefix, position = {}, batch.positions[row]
        for layer, pair in batch.caches.items():
            keys, values = (x[row, :, slice(*batch.spans[row])].detach() for x in pair)
            probes = None
            if batch.criterion.probes is not None:
                probes = to_device(batch.criterion.probes.at(batch.model, layer, position), keys.device)
            prefix[layer] = LayerCache(layer, keys, values, self.layers[layer], probes)
        return prefix

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def step(self, ids: Tensor | None) -> None:
        """Announce a query of every row: the tokens [B, 1], None where they are unknown."""
        self._length += 1
        if ids is not None:
            going = (ids != self._stops).all(1).tolist()
            for row, goes_on in zip(self._rows, going, strict=True):
                row.counting &= goes_on

    @torch.no_grad()
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute attention of one query of every row over all keys or its window, [B, H, 1, D]."""
        behind = slice(self._boundary, self._length)
        outputs = []
        for row, shared in enumerate(self._rows):
            one = slice(row, row + 1)
            call = LayerCall(layer, query[one], key[one, :, behind], value[one, :, behind], self.layers[layer], None)
            outputs.append(shared.attend(call))
        return torch.cat(outputs)

    def shares(self) -> list[Shares]:
        """Compute what each row read so far."""
        return self._counts.shares()
