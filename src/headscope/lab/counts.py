"""What each row labelled local and read, counted where the labels are: reading them waits for the GPU.

Shapes: R rows still decoding, L full-attention layers, H query heads, K KV heads, Q queries.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headscope.heads.reading import Reading, pair_bytes
from headscope.heads.window import Window
from headscope.models.geometry import geometry

MOST_WAITING = 1 << 20
"""Labels of a layer that wait to be counted."""


class Shares(NamedTuple):
    """Shares of one row, over its queries that had a bulk; NaN without any.

    Attributes:
        head: local (query, query head) pairs.
        group: local (query, KV group) pairs; a group is local, and its bulk unread, only if all of its heads are.
        kv_bytes: bytes of the cache and its summaries that were read, over those of reading every key and value.
        queries: how many queries were counted.
    """

    head: float
    group: float
    kv_bytes: float
    queries: int


class LayerCounts(NamedTuple):
    """Sums of one layer over the counted queries of each row, [R] each.

    Attributes:
        queries: queries that had a bulk.
        heads: local (query, query head) pairs.
        groups: local (query, KV group) pairs.
        keys: visible keys.
        bulk_keys: keys of bulks that were read with their values, summed over KV groups; where a selector chose, its
            index too, in the same unit.
    """

    queries: Tensor
    heads: Tensor
    groups: Tensor
    keys: Tensor
    bulk_keys: Tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model's layers and the window, which turn counts into shares.

    Attributes:
        heads: query heads of a layer.
        kv_heads: KV heads of a layer.
        head_dim: size of a head.
        window: the plain window, which every group reads.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: Window

    @classmethod
    def of(cls, config: Any, window: Window) -> "Sizes":
        """Read the sizes from a model's configuration."""
        sizes = geometry(config)
        return cls(sizes.heads, sizes.kv_heads, sizes.head_dim, window)


class ReadingCounts:
    """Counts of all rows of a batch, summed over its forwards.

    Attributes:
        layers: sums by the layer's index, [R] of all rows.
        decision_bytes: by the layer's index, bytes that one query's decision reads beside the plain window, over all KV
            heads, float64 [R] of all rows.
    """

    def __init__(self, rows: int, sizes: Sizes):
        self.rows, self.sizes, self.active = rows, sizes, torch.arange(rows)
        self.layers: dict[int, LayerCounts] = {}
        self.decision_bytes: dict[int, Tensor] = {}
        # By layer and rows: labels, queries that count, their keys and what was read of bulks where that is not all, of
        # each forward; bytes of the last decision.
        self._waiting: dict[tuple[int, Tensor], list[tuple[Tensor, Tensor, Tensor, Tensor | None]]] = {}
        self._bytes: dict[tuple[int, Tensor], Tensor] = {}

    @classmethod
    def of(
        cls, sizes: Sizes, layers: Mapping[int, LayerCounts], decision_bytes: Mapping[int, Tensor]
    ) -> "ReadingCounts":
        """Wrap sums that were made elsewhere."""
        counts = cls(len(next(iter(layers.values())).queries), sizes)
        counts.layers, counts.decision_bytes = dict(layers), dict(decision_bytes)
        return counts

    def of_row(self, row: int) -> "ReadingCounts":
        """Return counts that add to one row of these."""
        counts = copy(self)
        counts.active = torch.tensor([row])
        return counts

    def keep(self, rows: Tensor) -> None:
        """Go on counting for these of the active rows."""
        self.active = self.active[rows.to(self.active.device)]

    def add(
        self,
        layer: int,
        long: Tensor,
        counted: Tensor,
        keys: Tensor,
        decision_bytes: Tensor,
        pairs: Tensor | None = None,
    ) -> None:
        """Add the labels of one layer; they are summed later, many forwards at once.

        Args:
            layer: index of the layer.
            long: labels of the active rows, bool [R, H, Q].
            counted: queries that count, bool [R, Q]: those with a bulk.
            keys: visible keys of each query, [Q] or [R, Q].
            decision_bytes: of each row, over all KV heads, float64 [R].
            pairs: keys of bulks that were read with their values, over all KV heads, [R, Q]; None: all keys of the
                bulks of the KV heads with a long label.
        """
        waiting = self._waiting.setdefault((layer, self.active), [])
        waiting.append((long, counted, keys.expand(counted.shape), pairs))
        self._bytes[layer, self.active] = decision_bytes
        if len(waiting) * long.numel() > MOST_WAITING:
            self._sum_up()

    def _sum_up(self) -> None:
        """Add all labels that wait to the sums of their layers and rows."""
        for (layer, active), parts in self._waiting.items():
            *labels, pairs = zip(*parts, strict=True)
            heads, counted, keys = (torch.cat(tensors, -1) for tensors in labels)
            rows = active.to(heads.device)
            if layer not in self.layers:
                zeros = torch.zeros(self.rows, dtype=torch.float64, device=heads.device)
                self.layers[layer] = LayerCounts(*(zeros.clone() for _ in LayerCounts._fields))
                self.decision_bytes[layer] = zeros.clone()
            read = None if pairs[0] is None else torch.cat(pairs, -1)
            for total, new in zip(self.layers[layer], self._sums(heads, counted, keys, read), strict=True):
                total.index_add_(0, rows, new.double())
            self.decision_bytes[layer].index_copy_(0, rows, self._bytes[layer, active].to(heads.device).double())
        self._waiting.clear()
        self._bytes.clear()

    def _sums(self, heads: Tensor, counted: Tensor, keys: Tensor, pairs: Tensor | None) -> LayerCounts:
        """Sum labels [R, H, Q] over the queries that count, their keys, and what they read, [R, Q] each."""
        window, reading = self.sizes.window, Reading.of(heads, self.sizes.kv_heads)
        local_heads, local_groups = (~read & counted[:, None] for read in (reading.heads, reading.groups))
        visible = torch.where(counted, keys, 0)
        bulk = (visible - window.sink - window.recent).clamp(min=0)
        read = (reading.groups * bulk[:, None]).sum(1) if pairs is None else torch.where(counted, pairs, 0)
        return LayerCounts(
            counted.sum(1),
            local_heads.sum((1, 2)),
            local_groups.sum((1, 2)),
            visible.sum(1),
            read.sum(1),
        )

    def shares(self) -> list[Shares]:
        """Compute the shares of every row over all layers; waits for the GPU."""
        sums, decisions = self._table()
        return [self._shares(sums[:, :, row], decisions[:, row]) for row in range(self.rows)]

    def layer_shares(self) -> list[list[float]]:
        """Compute the share of local pairs by query head of each row and layer, in their order; NaN without any."""
        sums, _ = self._table()
        shares: list[list[float]] = (sums[:, 1].double() / (sums[:, 0] * self.sizes.heads)).T.tolist()
        return shares

    def _table(self) -> tuple[Tensor, Tensor]:
        """Bring sums, float64 [L, 5, R], and the bytes of decisions, float64 [L, R], to the CPU."""
        self._sum_up()
        if not self.layers:
            return torch.zeros(0, 5, self.rows).double(), torch.zeros(0, self.rows).double()
        order = sorted(self.layers)
        sums = torch.stack([torch.stack(list(self.layers[layer])).cpu().double() for layer in order])
        return sums, torch.stack([self.decision_bytes[layer].cpu() for layer in order])

    def _shares(self, sums: Tensor, decision_bytes: Tensor) -> Shares:
        """Compute the shares of one row from its sums [L, 5] and the bytes of its decisions [L]."""
        queries, heads, groups, keys, bulk_keys = sums.sum(0).tolist()
        if not queries:
            return Shares(float("nan"), float("nan"), float("nan"), 0)
        kv_heads, head_dim, window = self.sizes.kv_heads, self.sizes.head_dim, self.sizes.window
        decisions = float((sums[:, 0] * decision_bytes).sum())
        read = pair_bytes((window.sink + window.recent) * kv_heads * queries + bulk_keys, head_dim) + decisions
        return Shares(
            heads / (queries * self.sizes.heads),
            groups / (queries * kv_heads),
            read / pair_bytes(keys * kv_heads, head_dim),
            int(sums[:, 0].max()),
        )


class StepLabels:
    """Labels of steps of one query a row, each written at the step's number, as a CUDA graph can do again.

    Takes the place of `ReadingCounts` during the steps and hands over to it behind them.
    """

    def __init__(self, step: Tensor, most: int):
        """Make room for `most` steps; `step` holds the number of the present one, [1]."""
        self._step, self._most = step, most
        # By layer: labels, [R, H, most], the bytes of a decision, and what is read of bulks where not all is.
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._pairs: dict[int, Tensor] = {}
        # By the first layer alone, since all have the same: queries with a bulk and their keys, [R, most] each.
        self._queries: dict[int, tuple[Tensor, Tensor]] = {}

    def add(
        self,
        layer: int,
        long: Tensor,
        counted: Tensor,
        keys: Tensor,
        decision_bytes: Tensor,
        pairs: Tensor | None = None,
    ) -> None:
        """Write the labels of one layer in the present step; arguments as for `ReadingCounts.add`, with one query."""
        rows = len(long)
        if not self._queries:
            self._queries[layer] = counted.new_zeros(rows, self._most), keys.new_zeros(rows, self._most)
        if layer not in self._layers:
            self._layers[layer] = long.new_zeros(*long.shape[:2], self._most), decision_bytes
        self._layers[layer][0].index_copy_(2, self._step, long)
        if pairs is not None:
            if layer not in self._pairs:
                self._pairs[layer] = pairs.new_zeros(rows, self._most)
            self._pairs[layer].index_copy_(1, self._step, pairs)
        for room, new in zip(self._queries.get(layer, ()), (counted, keys), strict=False):
            room.index_copy_(1, self._step, new.expand(rows, 1))

    def hand_over(self, readings: Sequence[ReadingCounts], steps: int, fed: Tensor) -> None:
        """Count the first steps of each row, [R], of so many that were done; rows alternate between the prompts."""
        for with_bulk, keys in self._queries.values():
            counted = with_bulk[:, :steps] & (torch.arange(steps, device=fed.device) < fed[:, None])
            for layer, (long, decision_bytes) in self._layers.items():
                for_all = [long[:, :, :steps], counted, keys[:, :steps], decision_bytes]
                for_all += [self._pairs[layer][:, :steps]] if layer in self._pairs else []
                for number, counts in enumerate(readings):
                    counts.add(layer, *(x[number :: len(readings)] for x in for_all))
