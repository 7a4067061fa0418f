"""What the boundary leaves of a layer for the rows with the same outliers: the outliers and the others' summaries.

Outliers held in few bits are what a local pair attends to; a long pair reads the cache, where they are exact.

Shapes: r rows, H query heads, K KV heads, G = H // K, Q queries, M outlier keys, P keys of the prefix, D head_dim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headscope.heads.estimators import Estimator, JoinableEstimator
from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import Part
from headscope.heads.quantised import rounded
from headscope.heads.view import Summaries


@dataclass(frozen=True)
class Frozen:
    """One layer as it was at the boundary.

    Attributes:
        keys: of the outliers as they are held, [K, M, D]; a KV head with fewer than M has zeros behind them.
        values: the same of their values.
        held: which of these are outliers, bool [K, M].
        marks: where the outliers are, bool [H, 1, P].
        summaries: of the other bulk keys, of all heads or of one part of them after the other.
    """

    keys: Tensor
    values: Tensor
    held: Tensor
    marks: Tensor
    summaries: list[Summaries]

    def scores(self, query: Tensor, scale: float) -> Tensor:
        """Scores of the outliers as they are held, for queries [r, H, Q, D]: [r, H, Q, M]."""
        found = group_heads(precise(query), len(self.keys)) @ self.keys.transpose(1, 2)[:, None] * scale
        return found.masked_fill(~self.held[:, None, None], -torch.inf).flatten(1, 2)

    def weighted_values(self, weights: Tensor) -> Tensor:
        """Sum of the outliers' values under weights [r, H, Q, M]: [r, H, Q, D]."""
        return (group_heads(weights, len(self.values)) @ self.values[:, None]).flatten(1, 2)


def freeze(parts: Sequence[Part], heads: int, bits: int, estimators: Iterable[Estimator | None]) -> Frozen:
    """Hold a layer's outliers and summarise the other bulk keys.

    Args:
        parts: of the layer's KV heads, in their order.
        heads: query heads.
        bits: of a number of the outliers' keys and values.
        estimators: of the rest; None is passed over.
    """
    used = [estimator for estimator in estimators if estimator is not None]
    group = heads // sum(len(part.chosen) for part in parts)
    summaries, first = [], 0
    for part in parts:
        rest, last = part.bulk.without(part.chosen), first + len(part.chosen) * group
        made = {estimator.name: estimator.summarise(rest) for estimator in used}
        summaries.append(Summaries(slice(first, last), part.chosen.shape[1], made))
        first = last
    outliers = [replace(part.bulk, index=part.chosen) for part in parts]
    keys = _stacked([rounded(precise(found.keys), bits) for found in outliers])
    values = _stacked([rounded(precise(found.values), bits) for found in outliers])
    held = _stacked([torch.ones_like(part.chosen, dtype=torch.bool) for part in parts])
    marks = _marks(parts).repeat_interleave(group, 0)[:, None]
    return Frozen(keys, values, held, marks, _joined(summaries, used, keys.device))


def _joined(summaries: list[Summaries], used: Sequence[Estimator], device: torch.device) -> list[Summaries]:
    """One summary of all heads for each estimator, which takes fewer calls to read, where all of them fit together."""
    if len(summaries) == 1:
        return summaries
    of = {}
    for estimator in used:
        parts = [part.of[estimator.name] for part in summaries]
        whole = estimator.joined(parts) if isinstance(estimator, JoinableEstimator) else None
        if whole is None:
            return summaries
        of[estimator.name] = whole
    outliers = torch.tensor([part.outliers for part in summaries for _ in range(part.heads.start, part.heads.stop)])
    return [Summaries(slice(0, len(outliers)), outliers[:, None].to(device), of)]


def _marks(parts: Sequence[Part]) -> Tensor:
    """Where the outliers of each KV head are, bool [K, P]."""
    tokens = parts[0].bulk.cache.keys.shape[1]
    empty = [torch.zeros(len(part.chosen), tokens, dtype=torch.bool, device=part.chosen.device) for part in parts]
    return torch.cat([none.scatter(1, part.chosen, True) for none, part in zip(empty, parts, strict=True)])


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Put parts [k, m, ...] together, [K, M, ...], with zeros behind those of fewer than M."""
    return pad_sequence([head for part in parts for head in part], batch_first=True)
