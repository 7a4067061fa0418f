"""How many pairs each row labelled local.

Shapes: R rows still decoding, L full-attention layers, H query heads, K KV heads, G = H // K, Q queries.
"""

import torch
from torch import Tensor


class LocalCounts:
    """Local (query, head) and (query, KV group) pairs of every row, summed over decoding steps.

    A group is local only if all of its query heads are: only then is a KV read saved.

    Attributes:
        layer_queries: (layer, query) pairs with a bulk that each row put through, [all rows].
        local_heads: local (query, head) pairs of each layer, by its index, [all rows] each.
        local_groups: local (query, KV group) pairs of all layers, [all rows].
    """

    def __init__(self, rows: int):
        self.active = torch.arange(rows)
        self.layer_queries = torch.zeros(rows, dtype=torch.int64)
        self.local_heads: dict[int, Tensor] = {}
        self.local_groups = torch.zeros(rows, dtype=torch.int64)
        self.heads = self.groups = 1

    def keep(self, rows: Tensor) -> None:
        """Go on counting for these of the active rows."""
        self.active = self.active[rows]

    def add(self, layer: int, long: Tensor, kv_heads: int, counted: Tensor) -> None:
        """Add one layer's labels, bool [R, H, Q], at the queries that have a bulk, bool [R, Q]."""
        self.heads, self.groups = long.shape[1], kv_heads
        local = ~long & counted[:, None]
        groups = local.view(len(local), kv_heads, -1, local.shape[2]).all(2)
        self.layer_queries[self.active] += counted.sum(1).cpu()
        of_layer = self.local_heads.setdefault(layer, torch.zeros_like(self.layer_queries))
        of_layer[self.active] += local.sum((1, 2)).cpu()
        self.local_groups[self.active] += groups.sum((1, 2)).cpu()

    def sparsity(self, row: int) -> tuple[float, float]:
        """Share of local pairs, by query head and by KV group; NaN for a row that met no bulk."""
        pairs = int(self.layer_queries[row])
        if not pairs:
            return float("nan"), float("nan")
        heads = sum(int(of_layer[row]) for of_layer in self.local_heads.values())
        return heads / (pairs * self.heads), int(self.local_groups[row]) / (pairs * self.groups)

    def by_layer(self, row: int) -> list[float]:
        """Share of local pairs by query head of each layer, in their order, [L]; NaN for a row that met no bulk."""
        pairs = self.queries(row) * self.heads
        return [int(self.local_heads[i][row]) / pairs if pairs else float("nan") for i in sorted(self.local_heads)]

    def queries(self, row: int) -> int:
        """Queries with a bulk that a row put through; every layer saw the same ones."""
        return int(self.layer_queries[row]) // max(1, len(self.local_heads))
