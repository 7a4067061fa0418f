"""The dense model's own greedy answers: prompts are read one by one and decoded together.

Nothing of a model's generation configuration counts but its stop tokens: chat models ship sampling and penalties that
RULER's protocol excludes, and `generate` applies them even where it is called with a configuration without them.

Shapes: B prompts that still decode, V tokens of the vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headscope.models.attention import UNPADDED, attention
from headscope.models.geometry import geometry
from headscope.models.rotary import same_factors
from headscope.models.row_caches import RowCaches

CPU_BYTES, GPU_SHARE = 1 << 29, 1 / 16
"""Room for keys and values of the prompts that decode together: bytes on a CPU, a share of a GPU's memory, which other
processes use too."""


@dataclass(frozen=True)
class Unanswered:
    """A prompt without its answer.

    Attributes:
        ids: its tokens.
        max_new_tokens: tokens of an answer that does not stop.
        eos: tokens that end an answer.
        min_new_tokens: the first tokens of the answer, which are never stop tokens.
    """

    ids: Sequence[int]
    max_new_tokens: int
    eos: Sequence[int]
    min_new_tokens: int = 0

    @property
    def length(self) -> int:
        """Tokens with the longest answer allowed."""
        return len(self.ids) + self.max_new_tokens

    def answer(self, tokens: Sequence[int]) -> tuple[list[int], str] | None:
        """Return the finished answer without its stop token, and "eos" or "length"; None while it goes on."""
        if tokens and tokens[-1] in self.eos:
            return list(tokens[:-1]), "eos"
        return (list(tokens), "length") if len(tokens) == self.max_new_tokens else None


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str = "") -> list[int]:
    """Token ids that end an answer: the generation configuration's, the tokenizer's, and the last one of `text`."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    last = tokenizer.encode(text, add_special_tokens=False)[-1:]
    return sorted({token for token in [*ids, tokenizer.eos_token_id, *last] if token is not None})


def batches(model: PreTrainedModel, prompts: Sequence[Unanswered]) -> Iterator[list[int]]:
    """Yield which prompts (indices) decode together: neighbours whose caches fit, with the same rotary factors."""
    sizes, weight = geometry(model.config), model.get_input_embeddings().weight
    layer = sizes.full_layers[0]
    token = 2 * sizes.layers * sizes.kv_heads * sizes.head_dim * weight.element_size()
    most = _room(weight.device) // token
    batch: list[int] = []
    for index, prompt in enumerate(prompts):
        longest = max(prompts[each].length for each in [*batch, index])
        fits = (len(batch) + 1) * longest <= most
        if batch and not (fits and same_factors(model, layer, prompts[batch[0]].length, prompt.length)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * GPU_SHARE)
    return CPU_BYTES


def greedy_answer(
    model: PreTrainedModel, ids: Sequence[int], max_new_tokens: int, eos: Sequence[int], min_new_tokens: int = 0
) -> tuple[list[int], str]:
    """Generate from one prompt; returns the tokens without the stop token, and "eos" or "length"."""
    [answer] = greedy_answers(model, [Unanswered(ids, max_new_tokens, eos, min_new_tokens)])
    return answer


@torch.inference_mode()
def greedy_answers(model: PreTrainedModel, prompts: Sequence[Unanswered]) -> list[tuple[list[int], str]]:
    """Generate from all prompts of one batch; an answer is that of its prompt alone, but for rounding.

    Args:
        model: in evaluation mode.
        prompts: their caches fit together, and they have the same rotary factors (see `batches`).
    """
    # Rows that have stopped go on until half of them have, so their keys need room too.
    room = max(len(prompt.ids) for prompt in prompts) + max(prompt.max_new_tokens for prompt in prompts)
    caches, rows = RowCaches(model, len(prompts), room), list(range(len(prompts)))
    answers, finished = [list[int]() for _ in prompts], dict[int, tuple[list[int], str]]()
    with attention(model, UNPADDED):
        logits = torch.stack([caches.read(row, prompt.ids) for row, prompt in enumerate(prompts)])
        for step in count():
            for row, token in zip(rows, _greedy(logits, [prompts[row] for row in rows], step), strict=True):
                answers[row].append(token)
                answer = prompts[row].answer(answers[row])
                if answer is not None:
                    finished.setdefault(row, answer)
            going = [place for place, row in enumerate(rows) if row not in finished]
            if not going:
                break
            if 2 * len(going) <= len(rows):
                rows = [rows[place] for place in caches.keep(going)]
            logits = caches.step([answers[row][-1] for row in rows])
    return [finished[row] for row in range(len(prompts))]


def _greedy(logits: Tensor, prompts: Sequence[Unanswered], step: int) -> list[int]:
    """Return each row's most likely token, [B, V]: no stop token in the first tokens of an answer that needs them."""
    for row, prompt in enumerate(prompts):
        if step < prompt.min_new_tokens:
            logits[row, list(prompt.eos)] = float("-inf")
    tokens: list[int] = logits.argmax(-1).tolist()
    return tokens
