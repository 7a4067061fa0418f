"""What the boundary leaves of a layer for the rows with the same outliers: the outliers and the others' summaries.

Outliers held in few bits are what a local pair attends to; a long pair reads the cache, where they are exact.

Shapes: r rows, H query heads, K KV heads, Q queries, T keys of which P are of the prefix, M outlier keys, D head_dim.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headscope.heads.criteria import Summaries
from headscope.heads.estimators import Estimator
from headscope.heads.mass import precise
from headscope.heads.outliers import Part
from headscope.heads.quantised import FULL, rounded


@dataclass(frozen=True)
class Frozen:
    """One layer as it was at the boundary.

    Attributes:
        outliers: their positions for each query head, [H, M]; a head with fewer than M repeats the first key of all.
        held: which of these are outliers, bool [H, M].
        marks: the outliers as a mask, bool [H, 1, P].
        key_error: what rounding adds to their keys, [H, M, D], zero where none is held; None if they are not rounded.
        value_error: the same of their values.
        summaries: of the other bulk keys, of one part of the heads after the other.
    """

    outliers: Tensor
    held: Tensor
    marks: Tensor
    key_error: Tensor | None
    value_error: Tensor | None
    summaries: list[Summaries]

    def rounded_scores(self, query: Tensor, scores: Tensor, scale: float) -> Tensor:
        """Scores with those of the rounded outliers, [r, H, Q, T]; the given ones where nothing is rounded.

        Args:
            query: [r, H, Q, D].
            scores: of the exact keys, [r, H, Q, T].
            scale: factor of the scores.
        """
        if self.key_error is None:
            return scores
        added = precise(query) @ self.key_error.transpose(1, 2) * scale
        return scores.scatter_add(-1, self._columns(scores), added.to(scores.dtype))

    def outlier_mass(self, scores: Tensor) -> Tensor:
        """Log mass of the outliers, [r, H, Q], of scores [r, H, Q, T]."""
        of_outliers = scores.gather(-1, self._columns(scores))
        return of_outliers.masked_fill(~self.held[:, None], -torch.inf).logsumexp(-1)

    def rounding_of(self, weights: Tensor) -> Tensor | float:
        """What rounded values add to an output with these weights: [r, H, Q, T] to [r, H, Q, D]."""
        if self.value_error is None:
            return 0.0
        return weights.gather(-1, self._columns(weights)) @ self.value_error.to(weights.dtype)

    def _columns(self, scores: Tensor) -> Tensor:
        return self.outliers[None, :, None].expand(*scores.shape[:3], -1)


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
    index = _stacked([part.chosen for part in parts], group)
    held = _stacked([torch.ones_like(part.chosen, dtype=torch.bool) for part in parts], group)
    marks = torch.zeros(heads, parts[0].bulk.cache.keys.shape[1], dtype=torch.uint8, device=index.device)
    marks = marks.scatter_reduce(1, index, held.to(marks.dtype), "amax").bool()
    of_keys, of_values = (_rounding(parts, bits, group, of_values) for of_values in (False, True))
    return Frozen(index, held, marks[:, None], of_keys, of_values, summaries)


def _rounding(parts: Sequence[Part], bits: int, group: int, of_values: bool) -> Tensor | None:
    """What rounding adds to the outliers' keys or values for each query head, [H, M, D]; None if nothing is rounded."""
    if bits >= FULL:
        return None
    found = []
    for part in parts:
        held = replace(part.bulk, index=part.chosen)
        exact = precise(held.values if of_values else held.keys)
        found.append(rounded(exact, bits) - exact)
    return _stacked(found, group)


def _stacked(parts: Sequence[Tensor], group: int) -> Tensor:
    """Put parts [k, m, ...] together for each query head, [H, M, ...], with zeros behind those of fewer than M."""
    heads = pad_sequence([head for part in parts for head in part], batch_first=True)
    return heads.repeat_interleave(group, 0)
