"""Kernels against the best dense attention of the same run, on one GPU: prints a table and writes it as CSV.

    python bench/speed.py [--shapes llama3_8b qwen2_7b smollm2_135m] [--tokens 4096 ... 131072] [--out FILE]

`mass`: window and bulk log masses of every query, no values. Its `ideal` is 2: one of attention's two products. Each
kernel's result is compared with float64 on a sample of queries before it is timed; a time is the median of repeated
launches with a cold L2 cache.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from triton.testing import do_bench

from common import environment
from headscope.heads.mass import log_masses
from headscope.heads.window import Window
from headscope.kernels.mass import masses

SHAPES = {"llama3_8b": (32, 8, 128), "qwen2_7b": (28, 4, 128), "smollm2_135m": (9, 3, 64)}
"""Query heads, KV heads, head_dim."""
WINDOW = Window()
COLUMNS = ["kernel", "shape", "tokens", "batch", "sparsity", "skew", "ms", "dense_ms", "ratio", "ideal", "bytes"]
COLUMNS += ["dense", "error"]
TOLERANCE = 2e-4
SAMPLE = 16


def milliseconds(run: Callable[[], Any], budget: int = 300) -> float:
    """Median time of a launch, measured for about `budget` milliseconds."""
    return float(do_bench(run, warmup=budget // 4, rep=budget, return_mode="median"))


def flex(query: Tensor, key: Tensor, value: Tensor) -> Callable[[], Any]:
    """FlexAttention with a causal block mask, compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    tokens = query.shape[2]
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, tokens, tokens, device=query.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(query, key, value, block_mask=mask, enable_gqa=True)


def fastest_dense(query: Tensor, key: Tensor, value: Tensor, peers: list[str]) -> tuple[str, float]:
    """The fastest causal attention of the peers and its time in milliseconds."""
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    found = {}
    for name in peers:
        if name == "flex":
            found[name] = milliseconds(flex(query, key, value))
        else:
            with sdpa_kernel(backends[name]):
                found[name] = milliseconds(
                    lambda: scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
                )
    name = min(found, key=lambda peer: found[peer])
    return name, found[name]


def mass(query: Tensor, key: Tensor) -> tuple[Callable[[], Any], float]:
    """The kernel over all queries, and its largest error in nats against float64 on a sample of queries."""
    tokens, scale = query.shape[2], query.shape[3] ** -0.5
    positions = torch.arange(tokens, device=query.device)

    def run() -> tuple[Tensor, Tensor]:
        return masses(query, key, positions, WINDOW.sink, WINDOW.recent, scale)

    some = torch.linspace(0, tokens - 1, SAMPLE, device=query.device).long()
    exact = log_masses(query[:, :, some].double(), key.double(), some, WINDOW, scale)
    both = zip(run(), (exact.local, exact.bulk), strict=True)
    error = max(float((mine[..., some] - true).nan_to_num(0, 0, 0).abs().max()) for mine, true in both)
    return run, error


def measured(shape: str, tokens: int, norm: float, peers: list[str]) -> dict[str, Any]:
    """One row of the table."""
    heads, kv_heads, dim = SHAPES[shape]
    generator = torch.Generator("cuda").manual_seed(tokens)
    query, key, value = (
        torch.randn(1, n, tokens, dim, device="cuda", generator=generator).bfloat16()
        for n in (heads, kv_heads, kv_heads)
    )
    query *= norm
    run, error = mass(query, key)
    if not error < TOLERANCE * norm:
        raise SystemExit(f"mass, {shape}, {tokens} tokens: differs from float64 by {error:.1e} nats")
    name, dense_ms = fastest_dense(query, key, value, peers)
    ms = milliseconds(run)
    sizes = {"bytes": 2 * (query.numel() + key.numel()) + 8 * query.numel() // dim, "ideal": 2.0}
    return {"kernel": "mass", "shape": shape, "tokens": tokens, "batch": 1, "ms": ms, "dense_ms": dense_ms,
            "ratio": dense_ms / ms, "dense": name, "error": error, **sizes}  # fmt: skip


def main() -> None:
    """Measure every shape and length and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192, 32768, 131072])
    parser.add_argument("--peers", nargs="+", choices=["cudnn", "flash", "flex"], default=["cudnn", "flash", "flex"])
    parser.add_argument("--norm", type=float, default=1.0, help="factor of the queries; 20 shows extreme scores")
    parser.add_argument("--out", type=Path, default=Path("results/reference/speed/speed.csv"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: this bench measures kernels on one")
    print(environment())
    rows = []
    for shape in options.shapes:
        for tokens in options.tokens:
            row = measured(shape, tokens, options.norm, options.peers)
            rows.append({name: f"{x:.5g}" if isinstance(x, float) else x for name, x in row.items()})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
