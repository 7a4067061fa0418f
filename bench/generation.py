"""Tokens a second of `model.generate` under `headscope.adaptive` against the dense model of the same run.

    python bench/generation.py --model smollm2 --tokens 4096 8192 --batches 1 8 --device cuda
    python bench/generation.py --model llama3_8b --tokens 32768 --batches 4 --calibration-tokens 0 --device cuda

Decoding alone, in bfloat16, without torch.compile: a dense prefill fills the cache once, and every generation goes on
from the prompt's last token. `tokens_per_s` counts all of its time: the first step holds the boundary (outliers and
summaries are made). `boundary_s` is that part, `step_ms` a later step, both by when tokens arrive. On a GPU steps on a
static cache are replayed from a CUDA graph, captured once for a cache before the clock runs.

Each row is compared with the fastest dense way, `dense_cache`: `dynamic`, whose keys are copied at every step;
`static`, step by step; `captured`, its steps replayed as ours are; `kernels`, the same with headscope's kernels,
told to read all keys, in place of attention under a mask (less what the first step makes, which is not for dense
attention). `agree`: tokens equal to the dense ones of the row's own cache, as a share. A threshold belongs to the
length it was fitted at: look at `sparsity` before `ratio`. `llama3_8b` has that model's shape and random weights: its
times count; its answers, `agree` and choice of heads say nothing.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.generation.streamers import BaseStreamer

import headscope
from common import Numbers, as_texts, built, cut, environment, model_options, shown, write
from graphed import graphed

COLUMNS = ["model", "tokens", "batch", "cache", "criterion", "target", "sparsity", "sparsity_group", "tokens_per_s"]
COLUMNS += ["dense_tokens_per_s", "dense_cache", "ratio", "boundary_s", "step_ms", "dense_step_ms", "agree"]


class Times(NamedTuple):
    """Of one way to generate: tokens a second, seconds of a later step, and what the first one takes longer."""

    tokens_per_s: float
    step: float
    first: float


def refilled(kind: str, model: Any, cache: Any, length: int, most: int) -> Any:
    """A cache of a kind with the first keys and values of another."""
    new = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=most)
    for index, layer in enumerate(cache.layers):
        new.update(layer.keys[:, :, :length], layer.values[:, :, :length], index)
    return new


class Clock(BaseStreamer):
    """When the prompt went in and when each token of the batch was there, seconds: what is put is on the CPU."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: Tensor) -> None:
        """Note the time."""
        self.at.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""


def measure(model: Any, ids: Tensor, options: argparse.Namespace, criteria: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a batch of prompts [B, P]."""
    batch, length, new = len(ids), ids.shape[1] - 1, options.new_tokens
    cache: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)

    def generate(count: int, clock: Clock | None = None) -> Tensor:
        for layer in cache.layers:  # go back to the prompt
            layer.crop(length - layer.get_seq_length()) if dynamic else layer.cumulative_length.fill_(length)
        given = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "disable_compile": True}
        given |= {"attention_mask": torch.ones_like(ids), "past_key_values": cache, "pad_token_id": 0}
        return model.generate(ids, streamer=clock, **given)[:, length + 1 :]

    def timed() -> Times:
        generate(new, clock := Clock())
        start, first, last = clock.at[0], clock.at[1], clock.at[-1]
        step = (last - first) / (new - 1)
        return Times(batch * new / (last - start), step, first - start - step)

    def clocked() -> Times:
        generate(3)  # compiles, captures
        return Times(*map(median, zip(*(timed() for _ in range(options.repeats)), strict=True)))

    dense, rows = {}, []
    for kind in options.caches:
        dynamic, cache = kind == "dynamic", refilled(kind, model, cache, length, length + 1 + new)
        answer = generate(new)
        dense[kind] = clocked()
        if kind == "static":
            with graphed(model):
                dense["captured"] = clocked()
            with headscope.adaptive(model, replace(criteria[options.criteria[0]], thresholds={0.5: torch.inf})):
                step, first = clocked().step, dense["captured"].first
            dense["kernels"] = Times(batch * new / (first + new * step), step, first)
        for name, target in product(criteria, options.sparsity):
            with headscope.adaptive(model, criteria[name], target) as run:
                agree = (generate(new) == answer).float().mean().item()
                local = run.sparsity
                speed, step, first = clocked()
            shares = {"sparsity": local.head, "sparsity_group": local.group, "agree": agree}
            times = {"tokens_per_s": speed, "step_ms": 1e3 * step, "boundary_s": first - dense[kind].first}
            rows.append({"cache": kind, "criterion": name, "target": target, **shares, **times})
    print("dense:", ", ".join(f"{way} {1e3 * times.step:.4g} ms a step" for way, times in dense.items()), flush=True)
    best = max(dense, key=dense.__getitem__)
    speed, step, _ = dense[best]
    fastest = {"dense_tokens_per_s": speed, "dense_cache": best, "dense_step_ms": 1e3 * step}
    yield from ({**row, **fastest, "ratio": row["tokens_per_s"] / speed} for row in rows)


def calibrated(model: Any, stream: Tensor, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Criteria by name, fitted to rows of the stream behind those that are measured."""
    first = max(options.batches) * max(options.tokens) // length + 1
    texts = as_texts(cut(stream, range(first, first + options.calibration_prompts), length))
    fit = {"sparsity": options.sparsity, "max_new_tokens": options.new_tokens}
    return {name: headscope.calibrate(model, Numbers(), texts, criterion=name, **fit) for name in options.criteria}


def main() -> None:
    """Measure every context length and batch; the table is written after each."""
    parser = model_options(__doc__)
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192], help="of context and answer together")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--new-tokens", type=int, default=64, help="2 at least")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.8, 0.9], help="targets")
    parser.add_argument("--criteria", nargs="+", default=["qada", "lost_output_gaussian", "lost_output"])
    parser.add_argument("--caches", nargs="+", choices=["dynamic", "static"], default=["dynamic", "static"])
    parser.add_argument("--calibration-tokens", type=int, default=2048, help="0: at each context's own length")
    parser.add_argument("--calibration-prompts", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    parser.add_argument("--out", type=Path, default=Path("results/reference/speed/generation.csv"))
    options = parser.parse_args()
    print(environment())
    (model, stream), rows, criteria = built(options), [], {}
    for tokens in options.tokens:
        length = tokens - options.new_tokens - 1
        at = options.calibration_tokens or length
        criteria[at] = criteria.get(at) or calibrated(model, stream, at, options)
        for batch in options.batches:
            for row in measure(model, cut(stream, range(batch), length).to(options.device), options, criteria[at]):
                row |= {"model": options.model, "tokens": tokens, "batch": batch}
                rows.append(shown(row, COLUMNS))
            write(options.out, COLUMNS, rows)


if __name__ == "__main__":
    main()
