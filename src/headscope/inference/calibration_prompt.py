"""A prompt of the user's with the dense model's greedy answer, in tokens."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headscope.errors import ConfigError, LengthError
from headscope.models.generation import greedy_answer
from headscope.models.geometry import geometry
from headscope.models.rotary import refuse_changing_factors

Prompt = str | tuple[str, str]
"""A text, or its context and the question behind it."""


@dataclass(frozen=True)
class CalibrationPrompt:
    """A prompt with the dense model's answer.

    Attributes:
        prompt: token ids.
        boundary: first token whose query is recorded.
        answer: token ids without the stop token.
        fed: those of them that were read again.
    """

    prompt: list[int]
    boundary: int
    answer: list[int]
    fed: list[int]


def answer_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    max_new_tokens: int,
    eos: Sequence[int],
    add_special_tokens: bool,
) -> CalibrationPrompt:
    """Tokenise a prompt once, as a whole, and let the dense model answer it.

    Raises:
        ConfigError: the tokenizer knows no character offsets.
        LengthError: a prompt leaves no context, or no room for its answer, or the model's RoPE changes meanwhile.
    """
    if not tokenizer.is_fast:
        raise ConfigError(f"tokenizer {type(tokenizer).__name__} gives no character offsets; use a fast tokenizer")
    context, question = (prompt, "") if isinstance(prompt, str) else prompt
    encoded = tokenizer(
        context + question, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
    )
    ids: list[int] = encoded.input_ids
    starts = [start for start, _ in encoded.offset_mapping]
    boundary = bisect_left(starts, len(context)) if question else len(ids)
    longest = geometry(model.config).positions
    if boundary < 1 or len(ids) + max_new_tokens > longest:
        raise LengthError(
            f"a prompt of {len(ids)} tokens, {boundary} of them context, with max_new_tokens={max_new_tokens}: give it"
            f" a context, and at most {longest} tokens with the answer, which is what the model holds"
        )
    refuse_changing_factors(model, boundary, len(ids) + max_new_tokens)
    tokens, stop = greedy_answer(model, ids, max_new_tokens, eos, min_new_tokens=1)
    return CalibrationPrompt(ids, boundary, tokens, tokens if stop == "eos" else tokens[:-1])
