"""Scores of many rows over one shared prefix and each row's own keys: one product reads the prefix for all rows.

Shapes: R rows (r of one group), H query heads, K KV heads, G = H // K, Q queries, P prefix keys, S own keys of a row,
T = P + S, C window columns, D head_dim.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.heads.bulk import LayerCache
from headscope.heads.mass import group_heads, precise
from headscope.heads.outliers import OutlierRule
from headscope.models.attention import LayerCall


class Windowed(NamedTuple):
    """Attention over the window, outliers included, of some rows.

    Attributes:
        mass: log mass, [r, H, Q].
        output: what a local pair gives, [r, H, Q, D].
    """

    mass: Tensor
    output: Tensor


@dataclass(frozen=True)
class Scored:
    """Scores of some queries and what they may see.

    Attributes:
        call: the attention call.
        prefix: the layer's keys and values that all rows share.
        query: the queries, [R, H, Q, D].
        position: where they stand, [Q].
        scores: [R, H, Q, T]; -inf for keys that come later.
        local: the plain window, bool [Q, T].
        bulk: all other visible keys, bool [Q, T].
        bulk_size: [Q].
        columns: keys that the plain window of any query holds, [C].
        of_prefix: how many of the columns are the prefix's, which come first.
        windowed: attention over windows with some outliers, once computed, and its first row.
    """

    call: LayerCall
    prefix: LayerCache
    query: Tensor
    position: Tensor
    scores: Tensor
    local: Tensor
    bulk: Tensor
    bulk_size: Tensor
    columns: Tensor
    of_prefix: int
    windowed: dict[OutlierRule, tuple[int, Windowed]] = field(default_factory=dict)

    @cached_property
    def plain(self) -> Tensor:
        """Scores of the plain window, [R, H, Q, C] for the keys in `columns`; -inf for those of other queries."""
        return self.scores[..., self.columns].masked_fill(~self.local[:, self.columns], -torch.inf)

    def weighted_values(self, weights: Tensor, rows: slice = slice(None)) -> Tensor:
        """Sum the values of all keys under these rows' weights, [r, H, Q, T]: [r, H, Q, D]."""
        return weighted_values(weights, self.prefix.values, self.call.value[rows])


def all_scores(call: LayerCall, prefix: LayerCache, query: Tensor) -> Tensor:
    """Compute the scores of prefix and own keys, [R, H, Q, T]."""
    rows, heads, queries, _ = query.shape
    shared_keys, own_keys = precise(prefix.keys), precise(call.key)
    grouped = group_heads(precise(query), own_keys.shape[1])
    shared = grouped.transpose(0, 1).flatten(1, 3) @ shared_keys.transpose(1, 2)
    shared = shared.view(own_keys.shape[1], rows, -1, queries, shared_keys.shape[1]).transpose(0, 1)
    own = grouped @ own_keys.transpose(2, 3)[:, :, None]
    return torch.cat([shared, own], dim=-1).view(rows, heads, queries, -1).mul_(call.scale)


def weighted_values(weights: Tensor, prefix: Tensor, own: Tensor) -> Tensor:
    """Sum values of the prefix, [K, C, D], and own ones, [r, K, O, D], under [r, H, Q, C + O] weights: [r, H, Q, D]."""
    rows, heads, queries, _ = weights.shape
    of_prefix, of_own = group_heads(weights, own.shape[1]).tensor_split([prefix.shape[1]], -1)
    shared = of_prefix.transpose(0, 1).flatten(1, 3) @ precise(prefix)
    shared = shared.view(own.shape[1], rows, -1, queries, prefix.shape[-1]).transpose(0, 1)
    return (shared + of_own @ precise(own)[:, :, None]).reshape(rows, heads, queries, -1)
