"""Kernels against the best dense attention of the same run, on one GPU: prints a table and writes it as CSV.

    python bench/speed.py [--kernels mass prefill decode] [--shapes llama3_8b qwen2_7b smollm2_135m] [--tokens 4096 ...]

`mass`: window and bulk log masses of every query, no values. `prefill`: windows for all, moments and decision, packed
attention for the long (query, head) pairs. `decode`: one query of every sequence. Decisions are computed and timed; a
flag then forces the pairs, `--sparsity` of them local, uniformly or skewed over heads. `ideal` is what leaving that
work out would give: 2 for mass (one of attention's two products), 1 / (1 - sparsity) for the others. Each result is
compared with float64 on some queries before it is timed. A time is the median of replays of a CUDA graph; decoding goes
round copies of the cache, so that none is found in the L2 cache. The peers are timed for each shape, length and batch,
and the fastest again beside each case; one that takes twice as long as the fastest is not asked again by a
kernel and shape. `bench/break_even.py` reads the table.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import environment, shown
from dense_peers import PEERS, Inputs, Run, compared, dense, milliseconds
from headscope.heads.mass import log_masses
from headscope.heads.window import Window
from headscope.kernels.common.layer import Cache, DecisionRule
from headscope.kernels.decode import attend as decode
from headscope.kernels.decode import reference
from headscope.kernels.mass import masses as mass
from headscope.kernels.prefill import attend as prefill
from headscope.kernels.prefill.prefix_moments import PrefixMoments
from speed_cases import SHAPES, Case, cases
from summaries import Summary, summary

COLUMNS = ["kernel", "shape", "tokens", "batch", "recent", "summary", "sparsity", "skew", "ms", "dense_ms", "ratio"]
COLUMNS += ["ideal", "bytes", "dense", "error"]
CHUNK = 512
"""Tokens of a prefill that meet the same moments."""
ROUND = 1 << 30
"""Bytes of the caches that decoding goes round: twenty times an L2 cache."""
SLOW = 2.0
SAMPLE = 16
Measured = tuple[list[Run], Inputs, dict[str, Any]]
"""What is timed, over which inputs, and the columns `ideal`, `bytes` and `error`."""


def exact(query: Tensor, key: Tensor, value: Tensor, position: Tensor, long: Tensor, window: Window) -> Tensor:
    """Float64 attention of queries [B, H, Q, D] at positions [Q]: all keys where long [B, H, Q], else the window."""
    keys = torch.arange(key.shape[2], device="cuda")
    seen = torch.where(long[..., None], keys <= position[:, None], window.local(position, keys))
    grouped = query.unflatten(1, (key.shape[1], -1)).double()
    scores = grouped @ key.double().transpose(2, 3)[:, :, None] * query.shape[-1] ** -0.5
    weights = scores.flatten(1, 2).masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights.unflatten(1, grouped.shape[1:3]) @ value.double()[:, :, None]).flatten(1, 2)


def checked(found: Tensor, true: Tensor, case: Case) -> float:
    """Error as a share of the norm; ends the program where it is more than rounding."""
    error = float((found.double() - true).norm() / true.norm())
    if not error < 1e-2:
        raise SystemExit(f"{case}: differs from float64 by {error:.1e}")
    return error


def plain_rule(threshold: Tensor) -> DecisionRule:
    """Thresholds [B, H] of margins that count as they are."""
    ones = torch.ones(threshold.shape[1], device="cuda", dtype=threshold.dtype)
    return DecisionRule(threshold, ones, 0 * ones)


def measure_mass(case: Case) -> Measured:
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
        raise SystemExit(f"{case}: differs from float64 by {error:.1e} nats")
    moved = 2 * (query.numel() + key.numel()) + 8 * query.numel() // query.shape[3]
    return [run], [(query, key, value)], {"ideal": 2.0, "bytes": moved, "error": error}


def measure_prefill(case: Case) -> Measured:
    """A whole prompt, moments and decision included."""
    query, key, value = case.tensors(case.tokens)
    (batch, heads, tokens, dim), kv_heads, window = query.shape, key.shape[1], case.window
    starts = torch.arange(0, tokens, CHUNK, device="cuda")
    drawn = torch.rand(batch, heads, tokens, device="cuda") < case.long_shares(heads)[:, None]
    drawn &= window.bulk_size(torch.arange(tokens, device="cuda")) > 0
    forced = drawn.view(batch, kv_heads, -1, tokens).transpose(2, 3).contiguous().to(torch.int8)
    rule = plain_rule(torch.zeros(batch, heads, device="cuda"))

    def run() -> Tensor:
        prefix = PrefixMoments.of(key, starts, window.sink, window.recent)
        return prefill.attend_prompt(
            query, key, value, prefix, rule, window.sink, window.recent, dim**-0.5, forced
        ).output

    some = torch.linspace(0, tokens - 1, SAMPLE, device="cuda").long()
    true = exact(query[:, :, some], key, value, some, drawn[:, :, some], window)
    error, moved = checked(run()[:, :, some], true, case), 4 * (query.numel() + key.numel())
    return [run], [(query, key, value)], {"ideal": 1 / max(1 - case.sparsity, 1e-9), "bytes": moved, "error": error}


def long_groups(case: Case, kv_heads: int) -> Tensor:
    """KV groups that are long as a whole, bool [B, K]: as many as the sparsity says, drawn by their heads' shares."""
    shares = case.long_shares(kv_heads).repeat(case.batch)
    groups = torch.zeros(len(shares), dtype=torch.bool, device="cuda")
    order = torch.multinomial(shares.clamp(min=1e-6), len(groups), replacement=False)
    groups[order[: round((1 - case.sparsity) * len(groups))]] = True
    return groups.view(case.batch, kv_heads)


def measure_decode(case: Case) -> Measured:
    """One query of every sequence."""
    query, key, value = case.tensors(1)
    (batch, heads, _, dim), kv_heads, window = query.shape, key.shape[1], case.window
    groups = long_groups(case, kv_heads)
    long = groups.repeat_interleave(heads // kv_heads, 1)
    given = summary(case.summary, key, value, window)
    rule = given.rule(plain_rule(torch.where(long, torch.inf, -torch.inf)))
    lengths = torch.full((batch,), case.tokens, dtype=torch.int32, device="cuda")
    work, single = decode.Workspace.of(query[:, :, 0], kv_heads), query[:, :, 0].contiguous()

    def run(cache: Cache) -> Tensor:
        given.update(cache, window)
        fixed = window.sink, window.recent, dim**-0.5, given.outliers, work
        return decode.attend_step(single, cache, given.summary, rule, *fixed).output

    inputs = _copies(case.shape, case.tokens, batch)
    runs = [partial(run, Cache(k, v, lengths)) for _, k, v in inputs]
    error = checked(runs[0]()[:1], decoded(single, Cache(*inputs[0][1:], lengths), given, rule, window), case)
    read = int(groups.sum()) * (case.tokens - window.sink - window.recent)
    read += groups.numel() * (window.sink + window.recent)
    ideal = groups.numel() / max(int(groups.sum()), 1)  # of the groups that were drawn, a whole number of them
    return runs, inputs, {"ideal": ideal, "bytes": 4 * dim * read + given.size(), "error": error}


@lru_cache(1)
def _copies(shape: str, tokens: int, batch: int) -> Inputs:
    query, key, value = Case(shape, tokens, batch).tensors(1)
    more = max(1, -(-ROUND // (2 * key.numel() * 2))) - 1
    return [(query, key, value), *((query, key.clone(), value.clone()) for _ in range(more))]


def decoded(query: Tensor, cache: Cache, given: Summary, rule: DecisionRule, window: Window) -> Tensor:
    """Float64 output of the first sequence, [1, H, D]."""
    held = None if given.outliers is None else _first(given.outliers)
    rule = replace(rule, threshold=rule.threshold[:1])
    parts = query[:1].double(), _first(cache), _first(given.summary), rule
    return reference.attend_step(*parts, window.sink, window.recent, query.shape[2] ** -0.5, held).output


def _first(of: Any) -> Any:
    """The first sequence's, in float64."""
    parts = {name: part[:1] for name, part in vars(of).items() if part is not None}
    return replace(of, **{name: x.double() if x.is_floating_point() else x for name, x in parts.items()})


MEASURES: dict[str, Callable[[Case], Measured]] = {
    "mass": measure_mass,
    "prefill": measure_prefill,
    "decode": measure_decode,
}


def rows(kernel: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure every case of a kernel."""
    setting, peers = None, {shape: options.peers for shape in options.shapes}
    for case in cases(kernel, options):
        before, setting = setting, (case.shape, case.tokens, case.batch)
        if not case.fits():
            print(f"{case} does not fit on this GPU\n" if setting != before else "", end="", flush=True)
            continue
        runs, inputs, columns = MEASURES[kernel](case)
        if setting != before:
            found = compared(peers[case.shape], inputs)
            peers[case.shape] = [peer for peer, ms in found.items() if ms < SLOW * min(found.values())]
        peer = peers[case.shape][0]
        times = {"dense": peer, "dense_ms": milliseconds(dense(peer, inputs)), "ms": milliseconds(runs)}
        yield {"kernel": kernel, **vars(case), **columns, **times, "ratio": times["dense_ms"] / times["ms"]}
        torch.cuda.empty_cache()


def main() -> None:
    """Measure every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192, 32768, 131072, 524288])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    parser.add_argument("--skew", nargs="+", choices=["uniform", "skewed"], default=["uniform", "skewed"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--out", type=Path, default=Path("results/reference/speed/speed.csv"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU: this bench measures kernels on one")
    print(environment())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    part = options.out.with_suffix(".part.csv")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for kernel in options.kernels:
            for row in rows(kernel, options):
                writer.writerow(shown(row, COLUMNS))
                file.flush()
    part.replace(options.out)


if __name__ == "__main__":
    main()
