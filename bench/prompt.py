"""Milliseconds to read a prompt that decides while it is read (`scope="prompt"`, QAdA) against the dense model.

    python bench/prompt.py --model llama3_8b --layers 8 --tokens 32768 --batches 1 8 --device cuda

A forward of whole prompts into an empty cache, in bfloat16, dense by SDPA's cuDNN where it can; the median of some.
`sparsity`: the share of (query, head) pairs that were local, of those with a bulk. The targets `none` and `all` are no
targets: the same criterion told that every pair is long, or local; the first is the price of deciding. A model of
random weights has the times of that shape and says nothing else; its layers cost alike, and a few are enough.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

import headscope
from common import Numbers, as_texts, built, cut, environment, model_options, shown, write

COLUMNS = ["model", "layers", "tokens", "batch", "target", "sparsity", "ms", "dense_ms", "ratio"]
FASTEST = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""For dense attention, the first that can."""
BOUNDS = {"none": torch.inf, "all": -torch.inf}
"""Thresholds of what is no target."""


def read(model: Any, ids: Tensor) -> float:
    """Milliseconds of one forward."""
    cache = DynamicCache(config=model.config)
    start = time.perf_counter()
    with torch.no_grad(), sdpa_kernel(FASTEST, set_priority=True):
        logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
    logits[0, 0, 0].item()  # until the GPU has done all of it
    return 1e3 * (time.perf_counter() - start)


def timed(model: Any, ids: Tensor, repeats: int) -> float:
    """Milliseconds of a forward, the median of some behind one that compiles."""
    read(model, ids)
    return median(read(model, ids) for _ in range(repeats))


def measure(model: Any, ids: Tensor, options: argparse.Namespace, criterion: Any) -> Iterator[dict[str, Any]]:
    """Rows of a batch of prompts [B, T]."""
    for target in ("none", *options.sparsity, "all"):
        dense = timed(model, ids, options.repeats)  # beside each, for a GPU slows as it warms
        bound = BOUNDS[target] if target in BOUNDS else criterion.thresholds[target]
        with headscope.adaptive(model, replace(criterion, thresholds={0.5: bound})) as run:
            ms = timed(model, ids, options.repeats)
            local = fmean(prompt.head for prompt in run.prompts)
        yield {"target": target, "sparsity": local, "ms": ms, "dense_ms": dense, "ratio": dense / ms}


def calibrated(model: Any, ids: Tensor, targets: list[float]) -> Any:
    """A criterion fitted to prompts [B, T]."""
    fixed = {"criterion": "qada", "scope": "prompt", "sparsity": targets, "max_new_tokens": 2}
    return headscope.calibrate(model, Numbers(), as_texts(ids), **fixed)


def main() -> None:
    """Measure every length and batch; the table is written after each."""
    parser = model_options(__doc__)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5, 0.9], help="targets")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median counts")
    parser.add_argument("--out", type=Path, default=Path("results/reference/speed/prompt.csv"))
    options = parser.parse_args()
    print(environment())
    (model, stream), rows = built(options), []
    for tokens in options.tokens:
        criterion = calibrated(model, cut(stream, range(1), tokens - 2), options.sparsity)
        for batch in options.batches:
            for row in measure(model, cut(stream, range(1, batch + 1), tokens).to(options.device), options, criterion):
                row |= {"model": options.model, "layers": model.config.num_hidden_layers}
                row |= {"tokens": tokens, "batch": batch}
                rows.append(shown(row, COLUMNS))
            write(options.out, COLUMNS, rows)


if __name__ == "__main__":
    main()
