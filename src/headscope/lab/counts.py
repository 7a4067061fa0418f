"""How many pairs each row labelled local, counted where the labels are: reading them waits for the GPU.

Shapes: R rows still decoding, L full-attention layers, H query heads, K KV heads, G = H // K, Q queries.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class LocalCounts:
    """Local (query, head) and (query, KV group) pairs of every row, summed over decoding steps.

    A group is local only if all of its query heads are: only then is a KV read saved.

    Attributes:
        layers: by the layer's index, int64 [3, all rows]: queries with a bulk that each row put through, and its local
            (query, head) and (query, KV group) pairs.
    """

    def __init__(self, rows: int):
        self.rows, self.active = rows, torch.arange(rows)
        self.layers: dict[int, Tensor] = {}
        self.heads = self.groups = 1

    @classmethod
    def summed(cls, layers: Iterable[int], queries: Tensor, heads: Tensor, groups: Tensor) -> "LocalCounts":
        """Those of L layers by sums over queries: of those with a bulk [R], local heads [L, R, H], groups [L, R, K]."""
        found = cls(len(queries))
        found.heads, found.groups = heads.shape[2], groups.shape[2]
        every = torch.stack([queries.expand(len(heads), -1), heads.sum(2), groups.sum(2)], 1)
        found.layers = dict(zip(layers, every, strict=True))
        return found

    def keep(self, rows: Tensor) -> None:
        """Go on counting for these of the active rows."""
        self.active = self.active[rows.to(self.active.device)]

    def add(self, layer: int, long: Tensor, kv_heads: int, counted: Tensor) -> None:
        """Add one layer's labels, bool [R, H, Q], at the queries that have a bulk, bool [R, Q]."""
        self.heads, self.groups, device = long.shape[1], kv_heads, long.device
        local = ~long & counted[:, None]
        groups = local.view(len(local), kv_heads, -1, local.shape[2]).all(2)
        found = torch.stack([counted.sum(1), local.sum((1, 2)), groups.sum((1, 2))])
        before = self.layers.get(layer)
        if before is None:
            before = torch.zeros(3, self.rows, dtype=torch.int64, device=device)
        self.active = self.active.to(device)
        self.layers[layer] = before.to(device).index_add_(1, self.active, found)

    def sparsity(self, row: int) -> tuple[float, float]:
        """Share of local pairs, by query head and by KV group; NaN for a row that met no bulk."""
        queries, heads, groups = self._of_row(row).sum(0).tolist()
        if not queries:
            return float("nan"), float("nan")
        return heads / (queries * self.heads), groups / (queries * self.groups)

    def by_layer(self, row: int) -> list[float]:
        """Share of local pairs by query head of each layer, in their order, [L]; NaN for a row that met no bulk."""
        queries, heads, _ = self._of_row(row).double().unbind(1)
        shares: list[float] = (heads / (queries * self.heads)).tolist()
        return shares

    def queries(self, row: int) -> int:
        """Queries with a bulk that a row put through; every layer saw the same ones."""
        return int(self._of_row(row)[:, 0].amax()) if self.layers else 0

    def _of_row(self, row: int) -> Tensor:
        """What `layers` has of a row, on the CPU, [L, 3]; all rows come there with the first one."""
        self.layers = {layer: self.layers[layer].cpu() for layer in sorted(self.layers)}
        empty = torch.zeros(0, 3, dtype=torch.int64)
        return torch.stack([found[:, row] for found in self.layers.values()]) if self.layers else empty
