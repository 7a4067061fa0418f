"""The decision: from a query's window and an estimate of its bulk to a label for each head.

A criterion gives every (query, head) pair a margin, which tells how well the pair can do with its window. A map, fitted
in calibration, makes the margins of different heads comparable, and one threshold for all heads turns them into labels.

Shapes: B rows of one criterion, H query heads, K KV heads, G = H // K, Q queries.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from headscope.heads.criteria import Criterion
    from headscope.heads.view import LayerView

HEAD, GROUP = UNITS = ("head", "group")
"""What is decided: each query head on its own, or all query heads of a KV head together."""
SHARE, LOSS = ("share", "loss")
"""What a margin measures: log-odds of the window's share of the mass, or minus the log norm of the lost output."""


def deciding_margin(criterion: "Criterion", query: Tensor, view: "LayerView") -> Tensor:
    """Return the margins that thresholds turn into labels, [B, H, Q], for queries of one layer [B, H, Q, D]."""
    margin = criterion.map.apply(view.layer, criterion.margin(query, view))
    if criterion.unit == GROUP:
        margin = group_margins(margin, view.kv_heads, criterion.measures, dim=1)
    return margin


def is_long(margin: Tensor, thresholds: Tensor) -> Tensor:
    """Return True where a margin lies below its row's threshold, bool [B, H, Q].

    A NaN reads the bulk: an undecided head must not lose its context. A query without a bulk has the margin +inf.

    Args:
        margin: larger where the head can do with its window, [B, H, Q].
        thresholds: in the margin's unit, [B].
    """
    return ~(margin >= thresholds.to(margin.device)[:, None, None])


def group_margins(margin: Tensor, kv_heads: int, measures: str | None, dim: int) -> Tensor:
    """Give all heads of a KV group the margin of the group, in the shape of the heads' margins.

    A group that is local loses what its heads lose together: of losses (vectors of different directions) the root of
    the summed squares, of shares their mean. Margins that measure neither (static labels) are as low as the lowest.

    Args:
        margin: calibrated margins of heads, H of them along `dim`.
        kv_heads: K; the G heads of a KV head lie side by side.
        measures: SHARE, LOSS or None.
        dim: the dimension of heads.
    """
    by_group = margin.reshape(*margin.shape[:dim], kv_heads, -1, *margin.shape[dim + 1 :])
    inside = dim + 1
    if measures == LOSS:
        together = -torch.logsumexp(-2 * by_group, inside, keepdim=True) / 2
    elif measures == SHARE:
        together = torch.logsumexp(logsigmoid(by_group), inside, keepdim=True)
        together = together - torch.logsumexp(logsigmoid(-by_group), inside, keepdim=True)
    else:
        together = by_group.amin(inside, keepdim=True)
    return together.expand(by_group.shape).flatten(dim, inside)
