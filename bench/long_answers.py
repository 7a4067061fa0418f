"""Loss of long answers under a criterion whose summaries stay (frozen) or take in later keys (streaming).

    python bench/long_answers.py --tokens 4096 --answer 1024 --prompts 8 --device cuda

A prompt is a long text and a request to explain it; the answer is drawn from the dense model itself (temperature 1), so
that the mean excess loss of a row estimates the divergence of its predictions from the dense model's. Every row is fed
the same answer token by token and decides under its criterion. Thresholds are fitted on other prompts of the same
length, for each kind of summaries. Printed for parts of the answer: excess loss over dense in nats a token, the share
of tokens at which a row's most likely one is dense's, shares of local heads and of KV bytes, and streaming less
frozen, paired, each with a 95 % bootstrap interval over prompts.
"""

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import headscope
from common import default_asset, environment, shown, write
from headscope.heads.boundary_state import FROZEN, STREAMING
from headscope.heads.criteria import build
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.prefill import next_logits, prefill_densely
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import attention
from headscope.models.loading import load

CRITERIA, TARGETS = ["lost_output", "lost_output_gaussian", "qada"], [0.65, 0.8, 0.95]
REQUEST = "Explain this text to a beginner, section by section, with an example for each."
PARTS = (0, 128, 512, 1024, 4096)
COLUMNS = ["criterion", "summaries", "target", "part", "excess", "low", "high", "agree", "local", "kv_bytes", "prompts"]


def prompts(tokenizer: Any, tokens: int, count: int) -> list[str]:
    """Return prompts of at most so many tokens, each of another stretch of Python's documentation."""
    ids = tokenizer("\n\n".join(topics.values()), add_special_tokens=False, verbose=False).input_ids
    room = tokens - len(_framed(tokenizer, ""))
    starts = [(i * (len(ids) - room)) // max(1, count - 1) for i in range(count)]
    texts = [tokenizer.decode(ids[start : start + room - 8]) for start in starts]
    return [tokenizer.decode(_framed(tokenizer, text)) for text in texts]


def _framed(tokenizer: Any, text: str) -> list[int]:
    message = [{"role": "user", "content": f"{text}\n\n{REQUEST}"}]
    ids: list[int] = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    return ids


def criteria(model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield each criterion with each kind of summaries, fitted on the texts."""
    for name in CRITERIA:
        for summaries in (FROZEN, STREAMING):
            options = {"criterion": name, "summaries": summaries, "sparsity": TARGETS, "max_new_tokens": 128}
            yield name, summaries, headscope.calibrate(model, tokenizer, texts, **options)


@torch.inference_mode()
def drawn_answer(model: PreTrainedModel, ids: Sequence[int], length: int, seed: int) -> list[int]:
    """Draw a continuation from the dense model, without end."""
    torch.manual_seed(seed)
    tokens = torch.tensor([ids], device=model.device)
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "repetition_penalty": 1.0}
    output = model.generate(tokens, max_new_tokens=length, min_new_tokens=length, **options)
    return output[0, len(ids) :].tolist()


@torch.inference_mode()
def losses(
    model: PreTrainedModel, ids: Sequence[int], answer: Sequence[int], groups: Sequence[Rows], window: Any, probes: Any
) -> tuple[Tensor, Tensor, list[Any]]:
    """Return the log loss and the most likely token of each row at each step, [R, steps], and what the rows read."""
    counts = ReadingCounts(sum(group.count for group in groups), Sizes.of(model.config, window))
    loss, likely = [], []
    with attention(model):
        shared, cache = SharedPrefix(prefill_densely(model, ids, probes), groups, window, counts), DynamicCache()
        for step, (token, following) in enumerate(pairwise(answer)):
            fed = torch.full((shared.rows, 1), token)
            logits = next_logits(model, fed, len(ids) + step, cache, shared)
            loss.append(-logits.log_softmax(-1)[:, following].cpu())
            likely.append(logits.argmax(-1).cpu())
    return torch.stack(loss, 1), torch.stack(likely, 1), counts.shares()


def intervals(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean over prompts and its 95 % bootstrap interval."""
    draws = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def table(names: Sequence[tuple[str, str, float]], runs: Sequence[tuple[Tensor, Tensor, list[Any]]]) -> list[dict]:
    """Return a line for each row and part of the answers, and for each pair of summaries; row 0 is dense."""
    excess = np.stack([(loss[1:] - loss[:1]).numpy() for loss, _, _ in runs])
    agree = np.stack([(likely[1:] == likely[:1]).double().numpy() for _, likely, _ in runs])
    lines = []
    for first, last in pairwise(PARTS):
        if first >= excess.shape[2]:
            continue
        part = slice(first, last)
        means = excess[:, :, part].mean(2)
        for row, (name, summaries, target) in enumerate(names):
            line = {"criterion": name, "summaries": summaries, "target": target, "part": f"{first}-{last}"}
            line |= dict(zip(("excess", "low", "high"), intervals(means[:, row]), strict=True))
            line |= {"agree": float(agree[:, row, part].mean()), "prompts": len(runs)}
            shares = [shares[row + 1] for _, _, shares in runs]
            line |= {"local": float(np.mean([s.head for s in shares]))}
            lines.append({**line, "kv_bytes": float(np.mean([s.kv_bytes for s in shares]))})
            if summaries == STREAMING:
                other = names.index((name, FROZEN, target))
                paired = dict(zip(("excess", "low", "high"), intervals(means[:, row] - means[:, other]), strict=True))
                nothing = dict.fromkeys(("agree", "local", "kv_bytes"), float("nan"))
                lines.append({**line, **paired, **nothing, "summaries": "streaming - frozen"})
    return lines


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asset", type=Path, help="model folder under results/assets")
    parser.add_argument("--tokens", type=int, default=4096, help="of a prompt")
    parser.add_argument("--answer", type=int, default=1024, help="tokens of an answer")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--fitted", type=int, default=4, help="prompts that thresholds are fitted on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("results/long_answers.csv"))
    options = parser.parse_args()
    print(environment())
    loaded = load(options.asset or default_asset(), options.dtype, options.device)
    model, tokenizer = loaded.model, loaded.tokenizer
    every = prompts(tokenizer, options.tokens, options.prompts + options.fitted)
    fitted, evaluated = every[:: len(every) // options.fitted][: options.fitted], []
    evaluated = [text for text in every if text not in fitted][: options.prompts]
    window, groups, names, probes = headscope.Window(), [], [], None
    for name, summaries, criterion in criteria(model, tokenizer, fitted):
        probes = criterion.probes or probes
        targets = [criterion.target(target) for target in TARGETS]
        groups.append(Rows(criterion.recipe.criterion(targets), criterion.recipe.outliers).on(model.device))
        names += [(name, summaries, target) for target in TARGETS]
    groups.insert(0, Rows(build({"kind": "dense"}, [{}], None)))
    runs = []
    for seed, text in enumerate(evaluated):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        answer = drawn_answer(model, ids, options.answer, seed)
        runs.append(losses(model, ids, answer, groups, window, probes))
        print(f"prompt {seed + 1} of {len(evaluated)}", flush=True)
    lines = [shown(line, COLUMNS) for line in table(names, runs)]
    write(options.out, COLUMNS, lines)


if __name__ == "__main__":
    main()
