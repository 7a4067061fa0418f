"""Rows a second of the batched engine against one criterion at a time, each with its own prefill.

Same prompts, same run:

    python bench/engine.py [--prompts 3] [--tokens 32] [--length 1024]

The two ways must give the same answers, or the bench fails: a speed-up of something else is none.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from common import default_asset, environment, load_asset
from headscope.benchmarks.encoding import Encoded, encode
from headscope.benchmarks.registry import find
from headscope.benchmarks.row import Request
from headscope.benchmarks.sampling import Sampler
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.window import Window
from headscope.lab.evaluation import Answer, answer_rows
from headscope.lab.shared_prefix import Rows

GAUSSIAN = {"kind": "gaussian", "name": "gaussian", "covariance": "full", "moments": "prompt"}
THRESHOLDS = [{"threshold": threshold} for threshold in (-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0)]


def criteria() -> list[Rows]:
    """25 rows: dense, local, one static ranking, 11 targets each of oracle and QAdA."""
    ranking = [{"layers": list(range(30)), "long": [[1, 0, 0] * 3] * 30}]
    return [
        Rows(build({"kind": "dense"}, [], None), 1),
        Rows(build({"kind": "local"}, [], None), 1),
        Rows(build({"kind": "static"}, ranking, None), 1),
        Rows(build({"kind": "oracle"}, THRESHOLDS, None), 11),
        Rows(build({"kind": "qada"}, THRESHOLDS, build_estimator(GAUSSIAN, {})), 11),
    ]


def alone() -> list[list[Rows]]:
    """The same rows, each a batch of its own."""
    return [[Rows(group.criterion.take(torch.tensor([row])))] for group in criteria() for row in range(group.count)]


def timed(model: torch.nn.Module, prompt: Encoded, rows: list[Rows], tokens: int) -> list[Answer]:
    """Decode without stop tokens, so that both ways do the same work."""
    return answer_rows(model, prompt.ids, prompt.boundary, rows, Window(), tokens, eos=[])


def main() -> None:
    """Print seconds and the ratio of every prompt, then the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asset", type=Path, help="model folder under results/assets")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--length", type=int, default=1024)
    options = parser.parse_args()
    loaded = load_asset(options.asset or default_asset(), options.device)
    print(environment())
    request = Request("niah_single_1", options.length, 0, {}, True, loaded.tokenizer, files={})
    sampler = Sampler(find("ruler", request.task), request)
    ratios = []
    for sample in sampler.samples("evaluation", options.prompts):
        prompt = encode(
            loaded.tokenizer, sample.prompt.text, sample.prompt.question_offset, sample.prompt.prefix_offset
        )
        start = time.perf_counter()
        together = timed(loaded.model, prompt, criteria(), options.tokens)
        middle = time.perf_counter()
        separate = [timed(loaded.model, prompt, rows, options.tokens)[0] for rows in alone()]
        end = time.perf_counter()
        same = sum(a.tokens == b.tokens for a, b in zip(together, separate, strict=True))
        if same < len(together) - 2:  # float32 sums in another order may flip a label at its threshold
            raise SystemExit(f"only {same} of {len(together)} rows gave the same answer both ways")
        ratios.append((end - middle) / (middle - start))
        print(
            f"{len(prompt.ids)} tokens, {len(together)} rows, {options.tokens} new tokens: "
            f"batched {middle - start:.1f} s ({len(together) / (middle - start):.2f} rows/s), "
            f"one at a time {end - middle:.1f} s ({len(together) / (end - middle):.2f} rows/s), "
            f"ratio {ratios[-1]:.1f}x, {same} rows equal"
        )
    print(f"median ratio {statistics.median(ratios):.1f}x over {len(ratios)} prompts")


if __name__ == "__main__":
    main()
