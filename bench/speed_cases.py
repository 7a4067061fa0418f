"""What `bench/speed.py` measures: shapes, lengths, batches, and which pairs are local.

Shapes: B sequences, H query heads, K KV heads, Q queries, T keys, D head_dim.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from headscope.heads.window import Window
from summaries import SUMMARIES

SHAPES = {"llama3_8b": (32, 8, 128), "qwen2_7b": (28, 4, 128), "smollm2_135m": (9, 3, 64)}
"""Query heads, KV heads, head_dim."""
LONGEST = {"mass": 131072, "prefill": 131072, "decode": 524288}
MOST = 262144
"""Tokens of all sequences at most where there are several, but for decoding."""
WIDE = 1024
"""Recent keys of the wide window; measured at its length and sparsity alone."""
WIDE_TOKENS, WIDE_SPARSITY = 32768, 0.9
PRICED = 0.75
"""Sparsity at which the other summaries of decoding are measured."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        shape: of the model, in SHAPES.
        tokens: of each sequence.
        batch: sequences.
        recent: keys of the window behind its sinks.
        sparsity: share of the pairs that are forced to be local.
        skew: "uniform" or "skewed" over heads; empty where no pair is forced.
        summary: of the bulk, in SUMMARIES; empty where there is none.
    """

    shape: str
    tokens: int
    batch: int = 1
    recent: int = 128
    sparsity: float = 0.0
    skew: str = ""
    summary: str = ""

    @property
    def window(self) -> Window:
        """Of local pairs."""
        return Window(recent=self.recent)

    def tensors(self, queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, Q, D], keys and values [B, K, T, D], bfloat16, normal."""
        return _tensors(self.shape, self.tokens, self.batch, queries)

    def long_shares(self, heads: int) -> Tensor:
        """Share of long pairs of each head, [heads], 1 - sparsity in the mean; skewed: falling from head to head."""
        if self.skew != "skewed":
            return torch.full((heads,), 1 - self.sparsity, device="cuda")
        fall = torch.linspace(0, 1, heads, device="cuda")
        return 2 * (1 - self.sparsity) * (1 - fall) if self.sparsity >= 0.5 else 1 - 2 * self.sparsity * fall

    def fits(self) -> bool:
        """Whether two times its keys and values, as decoding goes round, leave a quarter of the GPU's memory."""
        _, kv_heads, dim = SHAPES[self.shape]
        size = 2 * 2 * 2 * self.batch * kv_heads * self.tokens * dim
        return size < 0.75 * torch.cuda.get_device_properties(0).total_memory


@lru_cache(1)
def _tensors(shape: str, tokens: int, batch: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    heads, kv_heads, dim = SHAPES[shape]
    generator = torch.Generator("cuda").manual_seed(tokens)
    query, key, value = (
        torch.randn(batch, count, length, dim, device="cuda", generator=generator, dtype=torch.bfloat16)
        for count, length in ((heads, queries), (kv_heads, tokens), (kv_heads, tokens))
    )
    return query, key, value


def cases(kernel: str, options: argparse.Namespace) -> Iterator[Case]:
    """The cases of a kernel; those that need the same tensors follow each other."""
    # Where no pair is local there is nothing to be skewed.
    pairs = [pair for pair in product(options.sparsity, options.skew) if pair[0] or pair[1] == options.skew[0]]
    for shape, tokens, batch in product(options.shapes, options.tokens, options.batches):
        if tokens > LONGEST[kernel] or (kernel != "decode" and batch > 1 and batch * tokens > MOST):
            continue
        if kernel == "mass":
            yield Case(shape, tokens, batch)
            continue
        yield from (Case(shape, tokens, batch, 128, *pair, "gaussian") for pair in pairs)
        if kernel == "prefill" and batch == 1 and tokens == WIDE_TOKENS:
            yield from (Case(shape, tokens, 1, WIDE, WIDE_SPARSITY, skew, "gaussian") for skew in options.skew)
        if kernel == "decode":
            others = [name for name in SUMMARIES if name != "gaussian"]
            yield from (Case(shape, tokens, batch, 128, PRICED, options.skew[0], name) for name in others)
