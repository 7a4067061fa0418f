"""Clusters of keys, ranked by the mass that their centres give them; centres and mean values stand for unread ones.

As RetroInfer (arXiv 2505.02922) and Multipole Attention (arXiv 2506.13059) do: the best clusters are read, and each
other one counts as so many keys of its centre's score with its mean value. Reads a centre and a mean value a cluster to
choose; both may be held in few bits.

Shapes: R rows, K KV heads, G query heads of each, Q queries, N bulk keys, C clusters, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.chunked_matmul import chunked_matmul
from headscope.heads.kmeans import kmeans
from headscope.heads.mass import precise
from headscope.heads.quantised import FULL, rounded, vectors_bytes
from headscope.heads.reading import WIDTH
from headscope.heads.selectors import Choice, shares

PLAN = {
    "options": {
        "size": {"type": "int", "help": "keys of a cluster, in the mean", "low": 1, "unit": "keys"},
        "bits": {
            "type": "int",
            "help": "of a number of the centres and mean values; 16 rounds nothing",
            "unit": "bits",
            "low": 2,
            "high": 16,
            "default": 16,
        },
    }
}


class ClusterIndex(NamedTuple):
    """Clusters of a layer's bulk.

    Attributes:
        cluster: of each key, [K, N].
        size: keys of each, [K, C]; some may have none.
        key: their mean, [K, C, D].
        value: mean of their values, [K, C, D].
    """

    cluster: Tensor
    size: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Clusters:
    """Reads whole clusters.

    Attributes:
        size: keys of a cluster, in the mean.
        bits: of a number of the centres and mean values.
    """

    size: int
    bits: int

    def index(self, bulk: Bulk) -> ClusterIndex:
        """Find clusters by k-means over the rotated keys."""
        keys, values = precise(bulk.keys), precise(bulk.values)
        heads, count, _ = keys.shape
        clusters = ceil(count / self.size)
        counts, numbers = (torch.full((heads, 1), n, device=keys.device) for n in (count, clusters))
        member = kmeans(keys, counts, numbers, clusters)
        size = member.sum(1)
        share = member / size.clamp(min=1)[:, None]
        key, value = (rounded(chunked_matmul(share, x), self.bits) for x in (keys, values))
        return ClusterIndex(member.argmax(-1), size, key, value)

    def choose(self, query: Tensor, window_mass: Tensor, index: ClusterIndex, most: Tensor, scale: float) -> Choice:
        """Choose the best clusters that `most` keys hold, and let the others stand for themselves."""
        centres, values = (x[:, None, None] for x in (index.key, index.value))
        masses = query @ centres.transpose(-1, -2) * scale + index.size.log()[:, None, None, None]
        importance, size = shares(masses, window_mass), index.size[:, None, None]
        order: Tensor = importance.argsort(stable=True, dim=-1, descending=True)
        paid = size.expand(importance.shape).gather(-1, order).cumsum(-1) <= most[..., None]
        chosen = torch.zeros_like(paid).scatter(-1, order, paid)
        others = masses.masked_fill(chosen[:, :, None], -torch.inf)
        rest = others.logsumexp(-1), others.softmax(-1).nan_to_num(0.0) @ values
        return Choice(chosen.gather(-1, index.cluster[:, None, None].expand(*chosen.shape[:-1], -1)), rest)

    def index_bytes(self, keys: int, head_dim: int) -> float:
        """Return the bytes of a centre, a mean value and a size of 16 bits a cluster."""
        clusters = ceil(keys / self.size)
        return 2 * vectors_bytes(clusters, self.bits, head_dim, WIDTH) + clusters * FULL / 8


def build(spec: Mapping[str, Any]) -> Clusters:
    """Make the selector."""
    return Clusters(spec["size"], spec["bits"])
