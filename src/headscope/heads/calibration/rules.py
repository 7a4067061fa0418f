"""What a target is a share of: local pairs, or bytes of the KV cache. Each rule fits thresholds and static rankings.

Shapes: N rows (layer, query) of one prompt, L layers, H query heads, K KV heads. Every prompt weighs the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headscope.heads.calibration.kv_bytes import Costs, group_margin, threshold_for_bytes
from headscope.heads.calibration.thresholds import Floats, bulk_share, head_means, static_labels, threshold_for

Labels = NDArray[np.bool_]
Integers = NDArray[np.integer]
RULES = {"sparsity": "sparsity", "kv_bytes": "KV bytes"}
"""What a target is a share of, in words, by the rule's name."""


class Rule(Protocol):
    """Fits what targets of one kind need.

    Attributes:
        name: one of `RULES`.
    """

    name: str

    def threshold(self, margins: Sequence[Floats], positions: Sequence[Integers], target: float) -> float:
        """Return one threshold for all heads, of calibrated margins [N, H] and the positions of their queries [N]."""

    def ranking(
        self, exact: Sequence[Floats], layers: Sequence[Integers], positions: Sequence[Integers], target: float
    ) -> tuple[list[int], Labels]:
        """Return the layers' indices and static labels, True for long, [L, H], of exact log-odds [N, H]."""

    def reached(self, long: Sequence[Labels], positions: Sequence[Integers]) -> float | None:
        """Return what labels [N, H] reach, the mean over prompts; None without any."""


class ShareOfPairs:
    """Targets are shares of local (query, head) pairs."""

    name = "sparsity"

    def threshold(self, margins: Sequence[Floats], positions: Sequence[Integers], target: float) -> float:
        """Let at least the target's share of pairs be local."""
        return threshold_for(margins, target)

    def ranking(
        self, exact: Sequence[Floats], layers: Sequence[Integers], positions: Sequence[Integers], target: float
    ) -> tuple[list[int], Labels]:
        """Rank heads by how often the oracle calls them long."""
        threshold = threshold_for(exact, target)
        indices, long_share = head_means([~(odds >= threshold) for odds in exact], layers)
        _, lost = head_means([bulk_share(odds) for odds in exact], layers)
        return indices, static_labels(long_share, lost, target)

    def reached(self, long: Sequence[Labels], positions: Sequence[Integers]) -> float | None:
        """Return the share of local pairs."""
        shares = [1 - labels.mean() for labels in long if labels.size]
        return float(np.mean(shares)) if shares else None


@dataclass(frozen=True)
class ShareOfBytes:
    """Targets are shares of the bytes of reading every key and value.

    Attributes:
        costs: of the criterion.
    """

    costs: Costs
    name = "kv_bytes"

    def threshold(self, margins: Sequence[Floats], positions: Sequence[Integers], target: float) -> float:
        """Let prompts read at most the target's share of the KV bytes."""
        return threshold_for_bytes(margins, positions, self.costs, target)

    def ranking(
        self, exact: Sequence[Floats], layers: Sequence[Integers], positions: Sequence[Integers], target: float
    ) -> tuple[list[int], Labels]:
        """Rank KV groups by how often the oracle reads them; as many are read as the budget pays."""
        kv_heads, threshold = self.costs.kv_heads, self.threshold(exact, positions, target)
        indices, read_share = head_means([group_margin(odds, kv_heads) < threshold for odds in exact], layers)
        _, lost = head_means([bulk_share(odds) for odds in exact], layers)
        none, full = (
            float(np.mean([self.costs.share(np.full((len(p), kv_heads), read), p) for p in positions if len(p)]))
            for read in (False, True)
        )
        groups = read_share.size
        paid = min(max(floor((target - none) / (full - none) * groups * (1 + 1e-12)), 0), groups)
        of_groups = static_labels(read_share, lost.reshape(len(lost), kv_heads, -1).sum(2), 1 - paid / groups)
        return indices, np.repeat(of_groups, lost.shape[1] // kv_heads, axis=1)

    def reached(self, long: Sequence[Labels], positions: Sequence[Integers]) -> float | None:
        """Return the share of the KV bytes that is read."""
        kv_heads, shares = self.costs.kv_heads, []
        for labels, position in zip(long, positions, strict=True):
            if len(position):
                groups = np.asarray(labels.reshape(len(labels), kv_heads, -1).any(2))
                shares.append(self.costs.share(groups, position))
        return float(np.mean(shares)) if shares else None
