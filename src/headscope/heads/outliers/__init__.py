"""Outlier keys: the few bulk keys of each KV head that every query attends to, beside its window. One rule a file.

A rule gives every bulk key an importance; the largest are chosen, once, at the boundary. Either all KV heads have as
many outliers, or the KV heads of all layers share a number of them.

Shapes: K KV heads, N bulk keys.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headscope.heads import registry
from headscope.heads.bulk import Bulk
from headscope.heads.quantised import FULL


def importance(rule: str, bulk: Bulk) -> Tensor:
    """Return the importance of every bulk key by a rule, [K, N], float32 or better; the largest is chosen first."""
    importances: Tensor = registry.load("outliers", rule).importance(bulk)
    return importances


@dataclass(frozen=True)
class OutlierRule:
    """Which bulk keys belong to the window, how many, and at which precision.

    Attributes:
        rule: name of the module that measures importances; None where there are no outliers.
        count: outliers of a KV head; where KV heads share, the mean over all of them.
        bits: of a number of their keys and values, as the window holds them; 16 leaves the model's own.
        shared: share of the outliers that goes to the keys of largest importance, whatever their head and layer; of
            the others every KV head has as many.
    """

    rule: str | None = None
    count: int = 0
    bits: int = FULL
    shared: float = 0.0

    def marked(self, layers: Iterable[Bulk]) -> Iterator[tuple[Bulk, Tensor]]:
        """Yield every layer and which of its bulk keys are outliers, bool [K, N].

        Goes over the layers twice if they share. NaN importances come last; of equal ones the earlier key comes first.

        Args:
            layers: bulks whose KV heads have as many keys each, in all layers where these share.
        """
        if self.rule is None or not self.count:
            for bulk in layers:
                yield bulk, torch.zeros_like(bulk.index, dtype=torch.bool)
        elif not self.shared:
            for bulk in layers:
                yield bulk, _rank(importance(self.rule, bulk)) < self.count
        else:
            importances = [importance(self.rule, bulk) for bulk in layers]
            counts = allotted(importances, self.count, self.count - round(self.shared * self.count))
            for bulk, of_layer, count in zip(layers, importances, counts, strict=True):
                yield bulk, _rank(of_layer) < count[:, None]


NO_OUTLIERS = OutlierRule()


def allotted(importances: Sequence[Tensor], count: int, least: int) -> list[Tensor]:
    """Return how many outliers each KV head has, [K] for every layer: `count` in the mean, the most important of all.

    Args:
        importances: of the bulk keys of each layer, [K, N], comparable between heads and layers; all layers have the
            same N. Layers may be on several devices; the counts of each are on its own.
        count: of a KV head in the mean; with fewer keys all of them. A head may have up to N.
        least: of each KV head.
    """
    together = torch.cat([layer.to(importances[0].device) for layer in importances])
    ranked = _known(together).sort(dim=1, descending=True).values
    heads, keys = ranked.shape
    left = heads * (min(count, keys) - min(least, keys))
    others = ranked[:, min(least, keys) :].flatten()
    taken = torch.zeros_like(others, dtype=torch.bool)
    taken[others.argsort(descending=True, stable=True)[:left]] = True
    counts = taken.view(heads, -1).sum(1) + min(least, keys)
    parts = torch.split(counts, [len(layer) for layer in importances])
    return [part.to(layer.device) for part, layer in zip(parts, importances, strict=True)]


def _rank(importance: Tensor) -> Tensor:
    """Rank each key, [K, N]: 0 for the most important, the earlier of equals first."""
    order = _known(importance).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _known(importance: Tensor) -> Tensor:
    """Put NaN last."""
    return importance.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
