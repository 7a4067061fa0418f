"""Outlier keys: the few keys of each KV head that are attended with the window. One selection rule a file, by name.

A rule gives every bulk key an importance; the largest are chosen, once, at the boundary.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, M chosen keys, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.quantised import FULL


@dataclass(frozen=True)
class Outliers:
    """Which keys belong to the window besides the first and the last.

    Attributes:
        rules: that choose them, modules here; several choose in turn.
        count: outliers of each KV head.
        bits: of a number of their keys and values, as the window holds them; 16 keeps the model's own.
    """

    rules: tuple[str, ...] = ()
    count: int = 0
    bits: int = FULL

    def choose(self, bulk: Bulk) -> Tensor:
        """Positions of the outliers in the cache, ascending, [K, M]."""
        return choose(self.rules, bulk, self.count)


NO_OUTLIERS = Outliers()


def importance(rule: str, bulk: Bulk) -> Tensor:
    """Importance of every bulk key by a rule (a module here), [K, N], float32 or better; larger is chosen first."""
    found: Tensor = import_module(f"{__name__}.{rule}").importance(bulk)
    return found


def choose(rules: Sequence[str], bulk: Bulk, count: int) -> Tensor:
    """Choose `count` keys of each KV head; returns their positions in the cache, ascending, [K, M].

    Several rules choose in turn: keys are ordered by the best rank that any rule gives them. NaN comes last; of equals
    the earlier key, and the earlier rule's, comes first. Fewer than `count` bulk keys are all chosen.
    """
    count = min(count, bulk.index.shape[1])
    if not count:
        return bulk.index[:, :0]
    ranks = torch.stack([_rank(importance(rule, bulk)) for rule in rules])
    best, rule = ranks.min(0)
    order = (best * len(rules) + rule).argsort(dim=1, stable=True)
    return bulk.index.gather(1, order[:, :count]).sort(dim=1).values


def _rank(importance: Tensor) -> Tensor:
    """Rank of each key, 0 for the most important, [K, N]."""
    known = importance.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return known.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
