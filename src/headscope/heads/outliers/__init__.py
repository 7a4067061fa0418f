"""Outlier keys: the few keys of each KV head that are attended with the window. One selection rule a file, by name.

A rule gives every bulk key an importance; the largest are chosen, once, at the boundary. KV heads have as many each, or
share what there is: a layer's outliers are then of one part a KV head, whose numbers of keys differ.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, M chosen keys, D head_dim.
"""

from collections.abc import Callable, Sequence
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
class Outliers:
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

    def parts(self, layers: Sequence[Bulk], measure: Measure = importance) -> list[list["Part"]]:
        """The outliers of every layer: one part of all KV heads, or one of each where they share."""
        if not self.shared or not self.count:
            return [[Part(bulk, choose(self.rules, bulk, self.count, measure))] for bulk in layers]
        importances = [measure(self.rules[0], bulk) for bulk in layers]
        counts = allotted(importances, self.count, self.count - round(self.shared * self.count))
        return [_parts(*layer) for layer in zip(layers, importances, counts, strict=True)]


@dataclass(frozen=True)
class Part:
    """KV heads of a layer with as many outliers each; where heads share, every head is summarised on its own.

    Attributes:
        bulk: of these heads, outliers included.
        chosen: positions of the outliers in the cache, ascending, [K, M].
    """

    bulk: Bulk
    chosen: Tensor


NO_OUTLIERS = Outliers()


def choose(rules: Sequence[str], bulk: Bulk, count: int, measure: Measure = importance) -> Tensor:
    """Choose `count` keys of each KV head; returns their positions in the cache, ascending, [K, M].

    Several rules choose in turn: keys are ordered by the best rank that any rule gives them. NaN comes last; of equals
    the earlier key, and the earlier rule's, comes first. Fewer than `count` bulk keys are all chosen.
    """
    count = min(count, bulk.index.shape[1])
    if not count:
        return bulk.index[:, :0]
    ranks = torch.stack([_rank(measure(rule, bulk)) for rule in rules])
    best, rule = ranks.min(0)
    order = (best * len(rules) + rule).argsort(dim=1, stable=True)
    return bulk.index.gather(1, order[:, :count]).sort(dim=1).values


def allotted(importances: Sequence[Tensor], count: int, least: int) -> list[Tensor]:
    """How many outliers each KV head has, [K] for every layer: `count` in the mean, the most important of all.

    Args:
        importances: of the bulk keys of each layer, [K, N], comparable between heads and layers; all layers have the
            same K and N.
        count: of a KV head in the mean; with fewer keys all of them. A head may have up to N.
        least: of each KV head.
    """
    ranked = torch.stack([_known(layer) for layer in importances]).sort(dim=2, descending=True).values
    layers, heads, keys = ranked.shape
    left = layers * heads * (min(count, keys) - min(least, keys))
    others = ranked[..., min(least, keys) :].flatten()
    taken = torch.zeros_like(others, dtype=torch.bool)
    taken[others.argsort(descending=True, stable=True)[:left]] = True
    return list(taken.view(layers, heads, -1).sum(2) + min(least, keys))


def _parts(bulk: Bulk, importance: Tensor, counts: Tensor) -> list[Part]:
    """The most important keys of each KV head of a layer."""
    order, found = _order(importance), []
    for head, count in enumerate(counts.tolist()):
        one = bulk.of_head(head)
        found.append(Part(one, one.index.gather(1, order[head : head + 1, :count]).sort(dim=1).values))
    return found


def _rank(importance: Tensor) -> Tensor:
    """Rank of each key, 0 for the most important, [K, N]."""
    return _order(importance).argsort(dim=1, stable=True)


def _order(importance: Tensor) -> Tensor:
    """Keys from the most important one on, the earlier of equals first, [K, N]."""
    return _known(importance).argsort(dim=1, descending=True, stable=True)


def _known(importance: Tensor) -> Tensor:
    """NaN comes last."""
    return importance.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
