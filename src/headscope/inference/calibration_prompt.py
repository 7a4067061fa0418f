"""A prompt of the user's, read from the forms that people have it in, and the dense model's greedy answer to it."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from headscope.errors import ConfigError, LengthError
from headscope.models.generation import greedy_answer
from headscope.models.geometry import geometry
from headscope.models.rotary import refuse_changing_factors

Prompt = str | Sequence[str] | Sequence[Mapping[str, Any]]
"""A text, its context and the question behind it, or a chat: a list of messages."""
FORMS = "a text, a pair (context, question) or a chat, a list of messages"


class Text(NamedTuple):
    """A prompt as text.

    Attributes:
        label: names it in errors.
        context: the text, or what stands before the question.
        question: nothing without one.
        templated: a chat template wrote it, special tokens included.
    """

    label: str
    context: str
    question: str = ""
    templated: bool = False


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


def read_prompts(prompts: Any, tokenizer: PreTrainedTokenizerBase) -> list[Text]:
    """Read prompts from whatever can be iterated over: a list, a generator, an array, a column of a table.

    Raises:
        ConfigError: there are none, or one is no text, pair or chat.
    """
    parts = [] if hasattr(prompts, "columns") else _parts(prompts)  # a table would give its columns' names
    if not parts:
        kind = type(prompts).__name__
        raise ConfigError(
            f"prompts must be a list of at least one prompt, each {FORMS}; {kind} is no such list, or empty"
        )
    texts = [_read(f"prompts[{i}]", prompt, tokenizer) for i, prompt in enumerate(parts)]
    for text in texts:
        _refuse_half_characters(text)
    return texts


def _refuse_half_characters(text: Text) -> None:
    try:
        (text.context + text.question).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{text.label}, character {error.start}: {error.reason}; decode the text as UTF-8") from None


def _read(label: str, prompt: Any, tokenizer: PreTrainedTokenizerBase) -> Text:
    """Tell the forms of a prompt apart."""
    if isinstance(prompt, str):
        return Text(label, prompt)
    parts = _parts(prompt)
    if len(parts) == 2 and all(isinstance(part, str) for part in parts):
        return Text(label, *parts)
    if parts and all(isinstance(part, Mapping) and "role" in part for part in parts):
        return Text(label, _templated(label, parts, tokenizer), templated=True)
    raise ConfigError(f"{label} is of type {type(prompt).__name__}; give {FORMS}")


def _parts(several: Any) -> list[Any]:
    """List the parts of what is no text; nothing where there are none."""
    try:
        return [] if isinstance(several, str | bytes | Mapping) else list(several)
    except TypeError:  # a number, an array without dimensions
        return []


def _templated(label: str, chat: list[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    """Write a chat by the tokenizer's template, up to where the answer begins."""
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of the model's maker and raises what it likes
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{label} is a chat that the tokenizer's template cannot write: {reason}; give texts"
        ) from error


def answer_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    max_new_tokens: int,
    eos: Sequence[int],
    add_special_tokens: bool,
) -> CalibrationPrompt:
    """Tokenise a prompt once, as a whole, and let the dense model answer it.

    Raises:
        LengthError: a prompt leaves no context, or no room for its answer, or the model's RoPE changes meanwhile.
    """
    encoded = tokenizer(
        text.context + text.question,
        add_special_tokens=add_special_tokens and not text.templated,
        return_offsets_mapping=True,
        verbose=False,
    )
    ids: list[int] = encoded.input_ids
    starts = [start for start, _ in encoded.offset_mapping]
    boundary = bisect_left(starts, len(text.context)) if text.question else len(ids)
    longest = geometry(model.config).positions
    if boundary < 1 or len(ids) + max_new_tokens > longest:
        raise LengthError(
            f"{text.label} has {len(ids)} tokens, {boundary} of them context, with max_new_tokens={max_new_tokens}:"
            f" give it a context, and at most {longest} tokens with the answer, which is what the model holds"
        )
    refuse_changing_factors(model, boundary, len(ids) + max_new_tokens)
    tokens, stop = greedy_answer(model, ids, max_new_tokens, eos, min_new_tokens=1)
    return CalibrationPrompt(ids, boundary, tokens, tokens if stop == "eos" else tokens[:-1])
