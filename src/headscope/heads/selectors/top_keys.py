"""The keys of the largest weight, by the exact scores of all keys: what selectors are measured against.

It reads every key to choose, which its cost leaves out: a reference, no method.

Shapes: R rows, K KV heads, G query heads of each, Q queries, N bulk keys, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import precise
from headscope.heads.selectors import Choice, ranks, shares


@dataclass(frozen=True)
class TopKeys:
    """Ranks keys by their share of attention, summed over the heads of the group."""

    def index(self, bulk: Bulk) -> Tensor:
        """Take the keys themselves, [K, N, D]."""
        return precise(bulk.keys)

    def choose(self, query: Tensor, window_mass: Tensor, index: Tensor, most: Tensor, scale: float) -> Choice:
        """Choose the best keys."""
        scores = query @ index[:, None, None].transpose(-1, -2) * scale
        return Choice(ranks(shares(scores, window_mass)) < most.floor()[..., None])

    def index_bytes(self, keys: int, head_dim: int) -> float:
        """Return zero: what a reference reads to choose does not count."""
        return 0.0


def build(spec: Mapping[str, Any]) -> TopKeys:
    """Make the selector."""
    return TopKeys()
