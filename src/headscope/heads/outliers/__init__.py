"""Outlier keys: the few keys of each KV head that are attended with the window. One selection rule a file, by name.

A rule gives every bulk key an importance; the largest are chosen, once, at the boundary. KV heads have as many each, or
share what there is.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, M chosen keys, D head_dim.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.quantised import FULL

Measure = Callable[[str, Bulk], Tensor]
"""Gives the importances of a layer's bulk keys by a rule; `importance`, or what remembers it."""


def importance(rule: str, bulk: Bulk) -> Tensor:
    """Importance of every bulk key by a rule (a module here), [K, N], float32 or better; larger is chosen first."""
    found: Tensor = import_module(f"{__name__}.{rule}").importance(bulk)
    return found


@dataclass(frozen=True)
class OutlierRule:
    """Which keys belong to the window besides the first and the last.

    Attributes:
        rules: that choose them, modules here; several choose in turn.
        count: outliers of a KV head, in the mean over all where they share.
        bits: of a number of their keys and values, as the window holds them; 16 keeps the model's own.
        shared: share of them that goes to where their importance is largest, whatever head and layer; of the others
            every KV head has as many.
    """

    rules: tuple[str, ...] = ()
    count: int = 0
    bits: int = FULL
    shared: float = 0.0

    def choose(self, bulk: Bulk) -> Tensor:
        """Positions of the outliers of one layer that shares with no other, ascending, [K, M]."""
        return choose(self.rules, bulk, self.count)

    def marked(self, layers: Iterable[Bulk], measure: Measure = importance) -> Iterator[tuple[Bulk, Tensor]]:
        """Every layer and which of its bulk keys are outliers, bool [K, N]; goes over the layers twice if they share.

        Args:
            layers: bulks whose KV heads have as many keys each, in all layers where these share.
            measure: gives the importances.
        """
        if not self.shared or not self.count:
            for bulk in layers:
                marks = torch.zeros_like(bulk.index, dtype=torch.bool)
                yield bulk, marks.scatter(1, _places(self.rules, bulk, self.count, measure), True)
            return
        importances = [measure(self.rules[0], bulk) for bulk in layers]
        counts = allotted(importances, self.count, self.count - round(self.shared * self.count))
        for bulk, found, count in zip(layers, importances, counts, strict=True):
            yield bulk, _rank(found) < count[:, None]


NO_OUTLIERS = OutlierRule()


def choose(rules: Sequence[str], bulk: Bulk, count: int, measure: Measure = importance) -> Tensor:
    """Choose `count` keys of each KV head; returns their positions in the cache, ascending, [K, M].

    Several rules choose in turn: keys are ordered by the best rank that any rule gives them. NaN comes last; of equals
    the earlier key, and the earlier rule's, comes first. Fewer than `count` bulk keys are all chosen.
    """
    return bulk.index.gather(1, _places(rules, bulk, count, measure)).sort(dim=1).values


def allotted(importances: Sequence[Tensor], count: int, least: int) -> list[Tensor]:
    """How many outliers each KV head has, [K] for every layer: `count` in the mean, the most important of all.

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


def _places(rules: Sequence[str], bulk: Bulk, count: int, measure: Measure) -> Tensor:
    """Which of the N keys of each KV head are chosen, in any order, [K, M]."""
    count = min(count, bulk.index.shape[1])
    if not count:
        return bulk.index[:, :0]
    best, rule = torch.stack([_rank(measure(name, bulk)) for name in rules]).min(0)
    return (best * len(rules) + rule).topk(count, largest=False).indices


def _rank(importance: Tensor) -> Tensor:
    """Rank of each key, 0 for the most important, the earlier of equals first, [K, N]."""
    order = _known(importance).argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _known(importance: Tensor) -> Tensor:
    """NaN comes last."""
    return importance.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
