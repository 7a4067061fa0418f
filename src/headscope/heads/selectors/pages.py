"""Pages of neighbouring keys, ranked by the largest score that a key within a page's least and largest numbers has.

Quest (arXiv 2406.10774, section 3): the bound of a page is sum_d max(q_d min_d, q_d max_d). Quest chooses for each
query head; a cache is read by KV group, so the pages' shares by their bounds are added up over the group's heads. Reads
two vectors a page to choose.

Shapes: R rows, K KV heads, G query heads of each, Q queries, N bulk keys, P pages, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.heads.bulk import Bulk
from headscope.heads.mass import precise
from headscope.heads.reading import WIDTH
from headscope.heads.selectors import Choice, ranks, shares

PLAN = {"options": {"size": {"type": "int", "help": "keys of a page", "low": 1, "default": 16, "unit": "keys"}}}


class PageIndex(NamedTuple):
    """Least and largest numbers of the keys of each page.

    Attributes:
        low: [K, P, D].
        high: [K, P, D].
        keys: N.
    """

    low: Tensor
    high: Tensor
    keys: int


@dataclass(frozen=True)
class Pages:
    """Ranks pages by their bounds; the last one may have fewer keys.

    Attributes:
        size: keys of a page.
    """

    size: int

    def index(self, bulk: Bulk) -> PageIndex:
        """Take the least and the largest of each number over every page."""
        keys = precise(bulk.keys)
        missing, shape = -keys.shape[1] % self.size, (len(keys), -1, self.size, keys.shape[2])
        low, high = (pad(keys, (0, 0, 0, missing), value=value).view(shape) for value in (torch.inf, -torch.inf))
        return PageIndex(low.amin(2), high.amax(2), keys.shape[1])

    def bounds(self, query: Tensor, index: PageIndex, scale: float) -> Tensor:
        """Return what no score of a page's keys exceeds, [K, R, G, Q, P]."""
        low, high = (x[:, None, None].transpose(-1, -2) for x in (index.low, index.high))
        return (query.clamp(max=0) @ low + query.clamp(min=0) @ high) * scale

    def choose(self, query: Tensor, window_mass: Tensor, index: PageIndex, most: Tensor, scale: float) -> Choice:
        """Choose the best whole pages, as many as `most` keys fill."""
        importance = shares(self.bounds(query, index, scale), window_mass)
        full = most >= index.keys  # the last page is not whole
        paid = torch.where(full, importance.shape[-1], most.div(self.size, rounding_mode="floor"))
        chosen = ranks(importance) < paid[..., None]
        return Choice(chosen.repeat_interleave(self.size, -1)[..., : index.keys])

    def index_bytes(self, keys: int, head_dim: int) -> float:
        """Return the bytes of two vectors a page, 16 bits a number."""
        return 2 * ceil(keys / self.size) * head_dim * WIDTH


def build(spec: Mapping[str, Any]) -> Pages:
    """Make the selector."""
    return Pages(spec["size"])
