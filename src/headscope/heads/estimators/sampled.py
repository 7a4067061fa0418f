"""A uniform sample of bulk keys: the log of their mean exponential score, and how far it may be off.

Reads S D numbers a KV head and takes S D multiply-adds a query, whatever T is; twice as many of both where values are
asked for. Keys of rare but large scores are missed: then the stated error is too small as well.

Shapes: B rows, H query heads, K KV heads, Q queries, N bulk keys, S sampled keys, D head_dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.mass import for_size, group_heads, precise


@dataclass(frozen=True)
class Sample:
    """What is kept of a layer's bulk: of all keys so far, those of the smallest random numbers.

    Attributes:
        layer: seed of the random numbers.
        seen: keys so far.
        drawn: their random numbers, ascending, [K, S].
        keys: [K, S, D].
        values: [K, S, D].
    """

    layer: int
    seen: int
    drawn: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Sampled:
    """Log mass of a sample without replacement, scaled to the bulk.

    Attributes:
        name: how tables call it.
        count: keys of the sample.
    """

    name: str
    count: int

    def summarise(self, bulk: Bulk) -> Sample:
        """Draw the sample, the same at every call."""
        keys, values = precise(bulk.keys), precise(bulk.values)
        start = Sample(bulk.cache.layer, 0, keys.new_zeros(keys.shape[0], 0).double(), keys[:, :0], values[:, :0])
        return self.update(start, keys, values)

    def update(self, summary: Sample, keys: Tensor, values: Tensor) -> Sample:
        """Add keys and values, [K, N, D]: the sample is a uniform one of all so far, the same in parts or at once."""
        seen = summary.seen + keys.shape[1]
        generator = torch.Generator().manual_seed(summary.layer)
        # Drawn from the first key on, so that a key's number does not depend on the parts.
        drawn = torch.rand(seen, keys.shape[0], generator=generator, dtype=torch.float64)[summary.seen :].T
        every = torch.cat([summary.drawn, drawn.to(keys.device)], 1)
        smallest, index = every.topk(min(self.count, seen), largest=False)
        kept = [
            torch.cat([old, new.to(old.dtype)], 1).gather(1, index[..., None].expand(-1, -1, old.shape[2]))
            for old, new in ((summary.keys, keys), (summary.values, values))
        ]
        return Sample(summary.layer, seen, smallest, *kept)

    def log_mass(self, query: Tensor, summary: Sample, bulk_size: Tensor, scale: float) -> Tensor:
        """Estimated bulk log mass, [B, H, Q]."""
        mass = _scores(query, summary, scale).logsumexp(-1).flatten(1, 2)
        return for_size(mass, summary.keys.shape[1], bulk_size)

    def standard_error(self, query: Tensor, summary: Sample, bulk_size: Tensor, scale: float) -> Tensor:
        """Standard error of the estimated log mass, [B, H, Q]; 0 where all keys are in the sample.

        Delta method: the standard error of the mean exponential score over that mean, with the correction for a sample
        without replacement (Cochran 1977, chapter 2). True for large samples of scores whose exponentials have a
        variance; about 95 % of the masses then lie within two of it.
        """
        sample = summary.keys.shape[1]
        part = (1 - sample / bulk_size.clamp(min=1)).clamp(min=0)
        if sample < 2:
            return torch.where(part > 0, torch.inf, 0.0).expand(query.shape[:3])
        squares = _scores(query, summary, scale).softmax(-1).square().sum(-1).flatten(1, 2)
        relative = (sample * squares - 1).clamp(min=0) / (sample - 1)
        return (relative * part).sqrt()

    def value(self, query: Tensor, summary: Sample, scale: float) -> Tensor:
        """Mean value of the sample under the query's attention, [B, H, Q, D]."""
        weights = _scores(query, summary, scale).softmax(-1)
        return torch.einsum("bkgqs,ksd->bkgqd", weights, summary.values).flatten(1, 2)


def _scores(query: Tensor, summary: Sample, scale: float) -> Tensor:
    """Scores of the sample, [B, K, G, Q, S]."""
    grouped = group_heads(precise(query), summary.keys.shape[0]).to(summary.keys.dtype)
    return torch.einsum("bkgqd,ksd->bkgqs", grouped, summary.keys) * scale


def build(spec: Mapping[str, Any], fitted: Mapping[str, Any]) -> Sampled:
    """Make the estimator."""
    return Sampled(spec["name"], spec["count"])


def numbers(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Numbers of a KV head's summary: the sample's keys and, for values, these."""
    return int(spec["count"]) * head_dim * (1 + values)


def multiply_adds(spec: Mapping[str, Any], head_dim: int, keys: int, values: bool) -> float:
    """Multiply-adds of a query: one for each number read."""
    return numbers(spec, head_dim, keys, values)
