"""Loss of long answers under a criterion whose summaries stay (frozen) or take in later keys (streaming).

    python bench/long_answers.py --tokens 4096 --answer 1024 --prompts 8 --device cuda

A prompt is a long text and a request to explain it; the answer is drawn from the dense model itself (temperature 1), so
that the mean excess loss of a row estimates the divergence of its predictions from the dense model's. Every row is fed
the same answer, `--block` tokens at a time, and decides each under its criterion; streaming summaries take in what left
the window at the start of a block (in `generate`: at each token). Thresholds are fitted on other prompts of the same
length, for each kind of summaries. Printed for parts of the answer: excess loss over dense in nats a token, the share
of tokens at which a row's most likely one is dense's, shares of local heads and of KV bytes, and streaming less
frozen, paired, each with a 95 % bootstrap interval over prompts.
"""

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

import headscope
from common import default_asset, environment, shown, write
from headscope.heads.boundary_state import SUMMARIES
from headscope.heads.criteria import build
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.prefill import prefill_densely
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import attention
from headscope.models.loading import LoadedModel, load

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


def fitted_rows(name: str, loaded: LoadedModel, texts: Sequence[str]) -> tuple[list[Rows], Any]:
    """Return the rows of dense and of a criterion with each kind of summaries, fitted on the texts, and its probes."""
    model, rows, probes = loaded.model, [Rows(build({"kind": "dense"}, [{}], None))], None
    for summaries in SUMMARIES:
        options = {"criterion": name, "summaries": summaries, "sparsity": TARGETS, "max_new_tokens": 32}
        criterion = headscope.calibrate(model, loaded.tokenizer, texts, **options)
        targets, probes = [criterion.target(target) for target in TARGETS], criterion.probes
        rows.append(Rows(criterion.recipe.criterion(targets), criterion.recipe.outliers).on(model.device))
    return rows, probes


@torch.inference_mode()
def drawn_answers(model: PreTrainedModel, prompts: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Draw a continuation of each prompt from the dense model, without end, all in one batch."""
    torch.manual_seed(0)
    most = max(map(len, prompts))
    tokens, mask = torch.zeros(len(prompts), most, dtype=torch.long), torch.zeros(len(prompts), most, dtype=torch.long)
    for row, ids in enumerate(prompts):
        tokens[row, most - len(ids) :], mask[row, most - len(ids) :] = torch.tensor(ids), 1
    options = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "repetition_penalty": 1.0}
    options |= {"max_new_tokens": length, "min_new_tokens": length, "attention_mask": mask.to(model.device)}
    answers: list[list[int]] = model.generate(tokens.to(model.device), **options)[:, most:].tolist()
    return answers


@torch.inference_mode()
def losses(
    model: PreTrainedModel, ids: Sequence[int], answer: Sequence[int], groups: Sequence[Rows], probes: Any, block: int
) -> tuple[Tensor, Tensor, list[Any]]:
    """Return the log loss and the most likely token of each row at each token, [R, length - 1], and what rows read."""
    window, rows = headscope.Window(), sum(group.count for group in groups)
    counts, loss, likely = ReadingCounts(rows, Sizes.of(model.config, window)), [], []
    with attention(model):
        shared, cache = SharedPrefix(prefill_densely(model, ids, probes), groups, window, counts), DynamicCache()
        for first in range(0, len(answer) - 1, block):
            fed = torch.tensor(answer[first : min(first + block, len(answer) - 1)], device=model.device)
            following = torch.tensor(answer[first + 1 : first + 1 + len(fed)], device=model.device)
            positions = torch.arange(len(fed), device=model.device)[None] + len(ids) + first
            inputs = {"past_key_values": cache, "use_cache": True, "headscope": shared}
            logits = model(fed.expand(rows, -1), position_ids=positions.expand(rows, -1), **inputs).logits.float()
            loss.append(-logits.log_softmax(-1).gather(2, following.expand(rows, -1)[..., None])[..., 0].cpu())
            likely.append(logits.argmax(-1).cpu())
    return torch.cat(loss, 1), torch.cat(likely, 1), counts.shares()


def measured(name: str, options: argparse.Namespace) -> list[tuple[Tensor, Tensor, list[Any]]]:
    """Measure one criterion; a process of its own."""
    loaded = load(options.asset or default_asset(), options.dtype, options.device)
    texts = prompts(loaded.tokenizer, options.tokens, options.prompts + options.fitted)
    rows, probes = fitted_rows(name, loaded, texts[options.prompts :])
    ids = [loaded.tokenizer(text, add_special_tokens=False).input_ids for text in texts[: options.prompts]]
    answers = drawn_answers(loaded.model, ids, options.answer)
    runs = []
    for prompt, answer in zip(ids, answers, strict=True):
        runs.append(losses(loaded.model, prompt, answer, rows, probes, options.block))
        print(f"{name}: prompt {len(runs)} of {options.prompts}", flush=True)
    return runs


def intervals(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the mean over prompts and its 95 % bootstrap interval."""
    draws = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    return {"excess": float(values.mean()), "low": float(low), "high": float(high)}


def lines(name: str, runs: Sequence[tuple[Tensor, Tensor, list[Any]]]) -> Iterator[dict[str, Any]]:
    """Yield a line for each row of a criterion and part of the answers, and for streaming less frozen."""
    excess = np.stack([(loss[1:] - loss[:1]).numpy() for loss, _, _ in runs])
    agree = np.stack([(likely[1:] == likely[:1]).double().numpy() for _, likely, _ in runs])
    for first, last in pairwise(PARTS):
        if first >= excess.shape[2]:
            return
        means, part = excess[:, :, first:last].mean(2), f"{first}-{last}"
        for row, (summaries, target) in enumerate(product(SUMMARIES, TARGETS)):
            line = {"criterion": name, "summaries": summaries, "target": target, "part": part, "prompts": len(runs)}
            shares = [shares[row + 1] for _, _, shares in runs]
            read = {
                "local": float(np.mean([s.head for s in shares])),
                "kv_bytes": float(np.mean([s.kv_bytes for s in shares])),
            }
            yield {**line, **intervals(means[:, row]), "agree": float(agree[:, row, first:last].mean()), **read}
        for row, target in enumerate(TARGETS):
            paired = intervals(means[:, row + len(TARGETS)] - means[:, row])
            line |= {"summaries": "streaming - frozen", "target": target, **paired}
            yield {**line, **dict.fromkeys(("agree", "local", "kv_bytes"), float("nan"))}


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asset", type=Path, help="model folder under results/assets")
    parser.add_argument("--tokens", type=int, default=4096, help="of a prompt")
    parser.add_argument("--answer", type=int, default=1024, help="tokens of an answer")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--fitted", type=int, default=4, help="prompts that thresholds are fitted on")
    parser.add_argument("--block", type=int, default=16, help="tokens that are fed at a time")
    parser.add_argument("--workers", type=int, default=3, help="processes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path("results/long_answers.csv"))
    options = parser.parse_args()
    print(environment())
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(measured, CRITERIA, [options] * len(CRITERIA))
        table = [line for name, runs in zip(CRITERIA, results, strict=True) for line in lines(name, runs)]
    write(options.out, COLUMNS, [shown(line, COLUMNS) for line in table])


if __name__ == "__main__":
    main()
