"""Kernels against the best dense attention of the same run, on one GPU: prints a table and writes it as CSV.

    python bench/speed.py [--kernels mass prefill decode] [--shapes llama3_8b qwen2_7b smollm2_135m] [--tokens 4096 ...]

`mass`: window and bulk log masses of every query, no values. `prefill`: windows for all, moments and decision, packed
attention for the long (query, head) pairs. `decode`: one query of every sequence. Decisions are computed and timed; a
flag then forces the pairs, `--sparsity` of them local, uniformly or skewed over heads. `ideal` is what leaving that
work out would give: 2 for mass (one of attention's two products), 1 / (1 - sparsity) for the others. Each result is
compared with float64 on some queries before it is timed. A time is the median of replays of a CUDA graph; decoding goes
round copies of the cache, so that none is found in the L2 cache.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from common import environment
from headscope.heads.mass import log_masses
from headscope.heads.window import Window
from headscope.kernels import decode, mass, prefill
from headscope.kernels.layer import Cache, Rest, Rule
from headscope.kernels.prefix import Prefix

SHAPES = {"llama3_8b": (32, 8, 128), "qwen2_7b": (28, 4, 128), "smollm2_135m": (9, 3, 64)}
"""Query heads, KV heads, head_dim."""
COLUMNS = ["kernel", "shape", "tokens", "batch", "sparsity", "skew", "ms", "dense_ms", "ratio", "ideal", "bytes"]
COLUMNS += ["dense", "error"]
CHUNK = 512
"""Tokens of a prefill that meet the same moments."""
ROUND = 2 << 30
"""Bytes of the caches that decoding goes round."""
SAMPLE, REPLAYS = 16, 20
PATIENCE = 1000.0
"""Milliseconds after which a graph is replayed no more, three times at least."""
Run = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        shape: of the model, in SHAPES.
        tokens: of each sequence.
        batch: sequences.
        sparsity: share of the pairs that are forced to be local.
        skew: "uniform" or "skewed" over heads.
        window: of local pairs.
    """

    shape: str
    tokens: int
    batch: int
    sparsity: float
    skew: str
    window: Window

    def tensors(self, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, Q, D], keys and values [B, K, T, D], bfloat16, normal."""
        heads, kv_heads, dim = SHAPES[self.shape]
        generator = torch.Generator("cuda").manual_seed(self.tokens)
        sizes = (heads, queries), (kv_heads, self.tokens), (kv_heads, self.tokens)
        query, key, value = (
            torch.randn(self.batch, *size, dim, device="cuda", generator=generator).bfloat16() for size in sizes
        )
        return query, key, value

    def long_shares(self, heads: int) -> Tensor:
        """Share of long pairs of each head, [heads], 1 - sparsity in the mean; skewed: falling from head to head."""
        if self.skew != "skewed":
            return torch.full((heads,), 1 - self.sparsity, device="cuda")
        fall = torch.linspace(0, 1, heads, device="cuda")
        return 2 * (1 - self.sparsity) * (1 - fall) if self.sparsity >= 0.5 else 1 - 2 * self.sparsity * fall


def milliseconds(runs: list[Run]) -> float:
    """Median time of one of the runs, which follow each other in one CUDA graph."""
    for run in runs:  # nothing may be compiled while the graph is made
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    times: list[float] = []
    while len(times) < REPLAYS + 3 and (len(times) < 6 or sum(times) * len(runs) < PATIENCE):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / len(runs))
    return median(times[3:])


def attention(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Run:
    """Torch's attention by one backend, causal where there is a query for every key."""

    def run() -> Tensor:
        with sdpa_kernel(backend):
            causal = query.shape[2] == key.shape[2]
            return scaled_dot_product_attention(query, key, value, is_causal=causal, enable_gqa=True)

    return run


def flex(inputs: list[tuple[Tensor, Tensor, Tensor]]) -> list[Run]:
    """FlexAttention, compiled once for inputs of one shape."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    queries, tokens = inputs[0][0].shape[2], inputs[0][1].shape[2]
    making = torch.compile(create_block_mask)  # otherwise it writes all T x T of the mask
    mask = making(lambda b, h, q, k: q + tokens - queries >= k, None, None, queries, tokens, device="cuda")
    compiled = torch.compile(flex_attention, dynamic=False)
    return [partial(compiled, *x, block_mask=mask, enable_gqa=True) for x in inputs]


def fastest_dense(inputs: list[tuple[Tensor, Tensor, Tensor]], peers: list[str]) -> tuple[str, float]:
    """The fastest dense attention of the peers over these inputs in turn, and its time in milliseconds."""
    backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
    found = {}
    for name in peers:
        found[name] = milliseconds(flex(inputs) if name == "flex" else [attention(backends[name], *x) for x in inputs])
    name = min(found, key=lambda peer: found[peer])
    return name, found[name]


def exact(query: Tensor, key: Tensor, value: Tensor, position: Tensor, long: Tensor, window: Window) -> Tensor:
    """Float64 attention of queries [B, H, Q, D] at positions [Q]: all keys where long [B, H, Q], else the window."""
    key, value = (x.double().repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    keys = torch.arange(key.shape[2], device="cuda")
    scores = (query.double() @ key.transpose(2, 3)) * query.shape[-1] ** -0.5
    seen = torch.where(long[..., None], keys <= position[:, None], window.local(position, keys))
    return scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value


def compared(
    runs: list[Run],
    inputs: list[tuple[Tensor, Tensor, Tensor]],
    peers: list[str],
    ideal: float,
    moved: int,
    error: float,
) -> dict[str, Any]:
    """Times of the runs and of the fastest dense attention over the inputs, with what else a row of the table says."""
    dense, dense_ms = fastest_dense(inputs, peers)
    ms = milliseconds(runs)
    return {"ms": ms, "dense_ms": dense_ms, "dense": dense, "ideal": ideal, "bytes": moved, "error": error}


def checked(found: Tensor, true: Tensor, what: str) -> float:
    """Error as a share of the norm; ends the program where it is more than rounding."""
    error = float((found.double() - true).norm() / true.norm())
    if not error < 1e-2:
        raise SystemExit(f"{what}: differs from float64 by {error:.1e}")
    return error


def plain_rule(threshold: Tensor) -> Rule:
    """Thresholds [B, H] of margins that count as they are."""
    ones = torch.ones(threshold.shape[1], device="cuda")
    return Rule(threshold, ones, 0 * ones)


def measure_mass(case: Case, peers: list[str]) -> dict[str, Any]:
    """Both masses of every query."""
    query, key, value = case.tensors(case.tokens)
    position, scale, window = torch.arange(case.tokens, device="cuda"), query.shape[3] ** -0.5, case.window
    some = torch.linspace(0, case.tokens - 1, SAMPLE, device="cuda").long()
    true = log_masses(query[:, :, some].double(), key.double(), some, window, scale)

    def run() -> tuple[Tensor, Tensor]:
        return mass.masses(query, key, position, window.sink, window.recent, scale)

    both = zip(run(), (true.local, true.bulk), strict=True)
    error = max(float((x[..., some] - y).nan_to_num(0, 0, 0).abs().max()) for x, y in both)
    if not error < 1e-3:
        raise SystemExit(f"mass, {case}: differs from float64 by {error:.1e} nats")
    moved = 2 * (query.numel() + key.numel()) + 8 * query.numel() // query.shape[3]
    return compared([run], [(query, key, value)], peers, 2.0, moved, error)


def measure_prefill(case: Case, peers: list[str]) -> dict[str, Any]:
    """A whole prompt, moments and decision included."""
    query, key, value = case.tensors(case.tokens)
    (batch, heads, tokens, dim), kv_heads, window = query.shape, key.shape[1], case.window
    scale, starts = dim**-0.5, torch.arange(0, tokens, CHUNK, device="cuda")
    drawn = torch.rand(batch, heads, tokens, device="cuda") < case.long_shares(heads)[:, None]
    drawn &= window.bulk_size(torch.arange(tokens, device="cuda")) > 0
    forced = drawn.view(batch, kv_heads, -1, tokens).transpose(2, 3).contiguous().to(torch.int8)
    rule = plain_rule(torch.zeros(batch, heads, device="cuda"))

    def run() -> Tensor:
        prefix = Prefix.of(key, starts, window.sink, window.recent)
        return prefill.prefill(query, key, value, prefix, rule, window.sink, window.recent, scale, forced).output

    some = torch.linspace(0, tokens - 1, SAMPLE, device="cuda").long()
    true = exact(query[:, :, some], key, value, some, drawn[:, :, some], window)
    error = checked(run()[:, :, some], true, f"prefill, {case}")
    ideal = 1 / max(1 - case.sparsity, 1e-9)
    moved = 4 * (query.numel() + key.numel())
    return compared([run], [(query, key, value)], peers, ideal, moved, error)


def measure_decode(case: Case, peers: list[str]) -> dict[str, Any]:
    """One query of every sequence with a Gaussian summary; KV groups are local or long as a whole."""
    query, key, value = case.tensors(1)
    (batch, heads, _, dim), kv_heads, window = query.shape, key.shape[1], case.window
    shares = case.long_shares(kv_heads).expand(batch, -1)
    groups = torch.zeros(batch * kv_heads, dtype=torch.bool, device="cuda")
    order = torch.multinomial(shares.flatten().clamp(min=1e-6), len(groups), replacement=False)
    groups[order[: round((1 - case.sparsity) * len(groups))]] = True
    long = groups.view(batch, kv_heads).repeat_interleave(heads // kv_heads, 1)
    rule = plain_rule(torch.where(long, torch.inf, -torch.inf))
    bulk = key[:, :, window.sink : -window.recent].float()
    mean = bulk.mean(2, keepdim=True)
    bulk -= mean
    covariance = bulk.transpose(2, 3) @ bulk / bulk.shape[2]
    one = torch.ones(batch, kv_heads, 1, device="cuda")
    rest = Rest(one, mean.bfloat16(), mean.bfloat16(), covariance.bfloat16(), one)
    del bulk
    copies = max(1, -(-ROUND // (2 * key.numel() * 2)))
    lengths = torch.full((batch,), case.tokens, dtype=torch.int32, device="cuda")
    inputs = [(query, key.clone(), value.clone()) for _ in range(copies)]
    work, single = decode.Workspace.of(query[:, :, 0], kv_heads), query[:, :, 0].contiguous()

    def run(cache: Cache) -> Tensor:
        found = decode.decode(single, cache, rest, rule, window.sink, window.recent, dim**-0.5, None, work)
        return found.output

    runs = [partial(run, Cache(k, v, lengths)) for _, k, v in inputs]
    first, last = slice(1), torch.tensor([case.tokens - 1], device="cuda")
    true = exact(query[first], key[first], value[first], last, long[first, :, None], window)
    error = checked(runs[0]()[first, :, None], true, f"decode, {case}")
    read = int(groups.sum()) * (case.tokens - window.sink - window.recent) + len(groups) * (window.sink + window.recent)
    moved = 4 * dim * read + 2 * covariance.numel()
    ideal = len(groups) / max(int(groups.sum()), 1)  # of the groups that were drawn, a whole number of them
    return compared(runs, inputs, peers, ideal, moved, error)


MEASURES = {"mass": measure_mass, "prefill": measure_prefill, "decode": measure_decode}


def cases(kernel: str, options: argparse.Namespace) -> list[Case]:
    """What is measured of a kernel: batches for decoding alone, no sparsity for the masses."""
    window = Window(recent=options.recent)
    batches = options.batches if kernel == "decode" else [1]
    spread = [(0.0, "")] if kernel == "mass" else [(s, k) for s in options.sparsity for k in options.skew]
    return [
        Case(shape, tokens, batch, *pairs, window)
        for shape in options.shapes
        for tokens in options.tokens
        for batch in batches
        for pairs in spread
    ]


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192, 32768, 131072])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32], help="of decoding")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0, 0.5, 0.75, 0.9, 0.99])
    parser.add_argument("--skew", nargs="+", choices=["uniform", "skewed"], default=["uniform", "skewed"])
    parser.add_argument("--recent", type=int, default=128, help="keys of the window behind the sinks")
    parser.add_argument("--peers", nargs="+", choices=["cudnn", "flash", "flex"], default=["cudnn", "flash", "flex"])
    parser.add_argument("--out", type=Path, default=Path("results/reference/speed/speed.csv"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: this bench measures kernels on one")
    print(environment())
    rows = []
    for kernel in options.kernels:
        for case in cases(kernel, options):
            found = MEASURES[kernel](case, options.peers)
            row = {name: getattr(case, name) for name in ("shape", "tokens", "batch", "sparsity", "skew")}
            row |= {"kernel": kernel, **found, "ratio": found["dense_ms"] / found["ms"]}
            rows.append({name: f"{row[name]:.4g}" if isinstance(row[name], float) else row[name] for name in COLUMNS})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
            torch.cuda.empty_cache()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
