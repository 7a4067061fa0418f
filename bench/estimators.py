"""Cost of every estimator, stated and measured, against the exact mass of the same keys in the same run.

    python bench/estimators.py [--keys 1000 8000] [--queries 1] [--head-dim 64]

Random keys of one layer: times, not accuracy. Numbers and multiply-adds are what a query of one head reads and takes;
measured is the microseconds of such a query, and of one KV head's summary.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from common import environment
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators import build
from headscope.heads.mass import group_heads

KV_HEADS, GROUP = 4, 4
GAUSSIAN = {"kind": "gaussian", "moments": "prompt"}
SPECS: dict[str, dict[str, Any]] = {
    "gaussian": {**GAUSSIAN, "covariance": "full"},
    "gaussian, diagonal": {**GAUSSIAN, "covariance": "diagonal"},
    "16 clusters": {"kind": "clusters", "clusters": 16, "covariance": "full", "bits": 16},
    "16 clusters, 8 bits": {"kind": "clusters", "clusters": 16, "covariance": "diagonal", "bits": 8},
}


def multiply_adds(spec: Mapping[str, Any], head_dim: int) -> int:
    """Return the multiply-adds of one query of one head: the scores of means, and one variance for all of them."""
    variance = 2 * head_dim if spec["covariance"] == "diagonal" else head_dim * (head_dim + 1)
    return spec.get("clusters", 1) * head_dim + variance


def median_microseconds(work: Callable[[], object], times: int) -> float:
    """Median over some runs, after one that warms up."""
    seconds = []
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds[1:])


def exact(query: torch.Tensor, keys: torch.Tensor, scale: float) -> torch.Tensor:
    """Log mass of all keys, [B, K, G, Q]."""
    return (torch.einsum("bkgqd,knd->bkgqn", group_heads(query, len(keys)), keys) * scale).logsumexp(-1)


def main() -> None:
    """Print a line for each number of keys and estimator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=[1000, 8000])
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--times", type=int, default=50)
    options = parser.parse_args()
    print(environment())
    for count in options.keys:
        compare(options, count)


@torch.inference_mode()
def compare(options: argparse.Namespace, count: int) -> None:
    """Measure every estimator, the exact mass right beside each."""
    dim, scale = options.head_dim, options.head_dim**-0.5
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(KV_HEADS, count, dim, generator=generator) for _ in range(2))
    query = torch.randn(1, KV_HEADS * GROUP, options.queries, dim, generator=generator)
    bulk, size = Bulk.between(LayerCache(0, keys, values, scale), 0, count), torch.full((options.queries,), count)
    queries = query[..., 0].numel()
    print(f"{count} keys of {dim} dimensions: the exact mass reads and takes {count * dim}")
    for name, spec in SPECS.items():
        estimator = build({"name": name, **spec}, {})
        summary = estimator.summarise(bulk)
        once = median_microseconds(lambda e=estimator: e.summarise(bulk), 3)
        ours = median_microseconds(lambda e=estimator, s=summary: e.log_mass(query, s, size, scale), options.times)
        theirs = median_microseconds(lambda: exact(query, keys, scale), options.times)
        print(
            f"  {name:22} {estimator.numbers(dim, values=False):8.0f} numbers, "
            f"{multiply_adds(spec, dim):8d} multiply-adds; "
            f"summary {once / KV_HEADS:8.0f} us, query {ours / queries:6.2f} us, exact / ours {theirs / ours:5.2f}x"
        )


if __name__ == "__main__":
    main()
