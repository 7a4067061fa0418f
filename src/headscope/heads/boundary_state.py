"""The state of one layer at the boundary: its outlier keys, and summaries of all other bulk keys.

Rows that use the same outliers share it. Outliers held in few bits are what a local pair attends to; a long pair reads
the cache, where they are exact. Summaries stay as the boundary left them (frozen), or each row's take in the keys that
leave its window (streaming).

Shapes: r rows, H query heads, K KV heads, G = H // K, Q queries, M outlier keys, N bulk keys,
D head_dim.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.estimators import Estimator
from headscope.heads.mass import precise
from headscope.heads.quantised import rounded
from headscope.heads.to_device import map_tensors

FROZEN, STREAMING = SUMMARIES = ("frozen", "streaming")
"""What summaries do behind the boundary: stay, or take in the keys that leave the window."""


@dataclass(frozen=True)
class Summaries:
    """Summaries of a layer's bulk.

    Attributes:
        outliers: how many the window of each head holds, one number or [H, 1]; all of them are outside the plain window
            of every query from the boundary on.
        of: each estimator's summary of the other bulk keys, by the estimator's name.
        sets: how many summaries lie one after the other, as more KV heads; row b has number b % sets.
    """

    outliers: int | Tensor
    of: Mapping[str, Any]
    sets: int = 1

    def for_rows(self, rows: int) -> "Summaries":
        """Give each of some rows a copy of its own."""
        return replace(self, of=map_tensors(self.of, lambda x: x.repeat(rows, *[1] * (x.ndim - 1))), sets=rows)

    def take(self, rows: Tensor) -> "Summaries":
        """Keep these of the rows (indices)."""

        def taken(x: Tensor) -> Tensor:
            return x.view(self.sets, -1, *x.shape[1:])[rows.to(x.device)].flatten(0, 1)

        return replace(self, of=map_tensors(self.of, taken), sets=len(rows))

    def updated(self, estimator: Estimator, keys: Tensor, values: Tensor) -> "Summaries":
        """Take in keys and values of each row that left its window, [r, K, N, D]."""
        joined = (x.flatten(0, 1) for x in (keys, values))
        return replace(self, of={estimator.name: estimator.update(self.of[estimator.name], *joined)})


@dataclass(frozen=True)
class BoundaryState:
    """One layer as it was at the boundary.

    Attributes:
        keys: of the outliers as the window holds them, [K, M, D]; a KV head with fewer than M has zeros behind them.
        values: the same of their values.
        present: which of the M are outliers, bool [K, M].
        summaries: of the other bulk keys.
    """

    keys: Tensor
    values: Tensor
    present: Tensor
    summaries: Summaries


def make_boundary_state(
    bulk: Bulk, outliers: Tensor, group: int, bits: int, estimators: Iterable[Estimator | None]
) -> BoundaryState:
    """Take a layer's outliers out of its bulk and summarise the other keys.

    Args:
        bulk: outliers included; as many keys of each KV head.
        outliers: which of its keys are outliers, bool [K, N].
        group: query heads of a KV head.
        bits: of a number of the outliers' keys and values.
        estimators: of the other keys; None is passed over.
    """
    chosen, others = bulk.where(outliers), bulk.where(~outliers)
    keys, values = (_rounded(precise(vectors), chosen, bits) for vectors in (chosen.keys, chosen.values))
    present = torch.ones_like(chosen.index, dtype=torch.bool) if chosen.present is None else chosen.present
    count = chosen.index.shape[1] if chosen.present is None else chosen.count.repeat_interleave(group)[:, None]
    of = {estimator.name: estimator.summarise(others) for estimator in estimators if estimator is not None}
    return BoundaryState(keys, values, present, Summaries(count, of))


def _rounded(vectors: Tensor, chosen: Bulk, bits: int) -> Tensor:
    """Round vectors of the outliers, [K, M, D], about the mean of each KV head's own; zeros stay behind them."""
    if chosen.present is None:
        return rounded(vectors, bits)
    mean = vectors.float().sum(1, keepdim=True) / chosen.count.clamp(min=1)[:, None, None]
    return rounded(vectors, bits, mean).masked_fill(~chosen.present[..., None], 0)
