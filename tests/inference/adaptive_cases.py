"""Tiny models with a tokenizer of letters, so that they can be calibrated on texts."""

import string
from dataclasses import replace
from functools import cache

import torch
from tiny_models import EOS, VOCABULARY, random_ids, tiny_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import headscope

WINDOW = headscope.Window(sink=4, recent=16)
NEW = 24
IDS = [random_ids(length, seed) for seed, length in enumerate((80, 57, 12))]
LETTERS = string.printable[: VOCABULARY - 3]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, padding on the left."""
    words = {"<pad>": 0, "<s>": 1, "</s>": EOS, **{letter: i + 3 for i, letter in enumerate(LETTERS)}}
    found = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, padding_side="left", **special)


def text(length: int, seed: int) -> str:
    """Letters by chance."""
    generator = torch.Generator().manual_seed(seed)
    return "".join(LETTERS[i] for i in torch.randint(0, 60, (length,), generator=generator).tolist())


def calibrated(model: PreTrainedModel, criterion: str = "lost_output", **options) -> headscope.AdaptiveCriterion:
    """A criterion of a tiny model at targets of .3 and .7, with 6 outliers of a KV head if it has any."""
    asked = {"sparsity": [0.3, 0.7], "window": WINDOW, "max_new_tokens": NEW, "probes": 12, **options}
    if criterion != "qada":
        asked = {"outliers": 6, **asked}
    prompts = [text(70 + 9 * seed, seed) for seed in range(3)]
    return headscope.calibrate(model, tokenizer(), prompts, criterion=criterion, **asked)


def at(criterion: headscope.AdaptiveCriterion, threshold: float) -> headscope.AdaptiveCriterion:
    """The same with one threshold of our own."""
    return replace(criterion, thresholds={0.5: threshold})


def generated(model: PreTrainedModel, ids: list[list[int]], **options) -> torch.Tensor:
    """New tokens of a batch, padded on the left where prompts differ in length, [B, NEW]."""
    most = max(map(len, ids))
    tokens = torch.tensor([[0] * (most - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (most - len(row)) + [1] * len(row) for row in ids])
    tokens, mask = tokens.to(model.device), mask.to(model.device)
    asked = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(tokens, attention_mask=mask, **asked)[:, most:].cpu()


def one_by_one(
    model: PreTrainedModel, criterion: headscope.AdaptiveCriterion
) -> tuple[torch.Tensor, list[headscope.Session]]:
    """New tokens of each of IDS on its own, [B, NEW], and the runs that they were decided in."""
    tokens, runs = [], []
    for ids in IDS:
        with headscope.adaptive(model, criterion) as run:
            tokens.append(generated(model, [ids])[0])
        runs.append(run)
    return torch.stack(tokens), runs


def small(family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A tiny model."""
    return tiny_model(family, dtype)
