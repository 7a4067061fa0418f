"""Assembles the full string of a prompt: chat template around the user's turn, answer prefix after it."""

from dataclasses import dataclass
from typing import Any

from headscope.benchmarks.task import Rendering
from headscope.errors import ConfigError

# Some templates print today's date, from one of two names; a prompt made tomorrow must have the same bytes.
# transformers passes no function on to a template, so the second is defined in the template itself.
TODAY = "26 Jul 2024"
FIXED_CLOCK = "{% macro strftime_now(format) %}" + TODAY + "{% endmacro %}"


@dataclass(frozen=True)
class Prompt:
    """The string to tokenise, and where its parts start, in characters."""

    text: str
    question_offset: int
    prefix_offset: int


def assemble(rendering: Rendering, tokenizer: Any, chat_template: bool) -> Prompt:
    """Put the user's turn into the model's chat template, if `chat_template`, and the answer prefix after it.

    RULER's prefix starts with a space; it stays, as in the official runs, also at the start of the model's turn. A
    template may strip white space from the ends of the user's text, as those of Llama 3 do.

    Raises:
        ConfigError: the tokenizer has no chat template, or it rewrites the user's text.
    """
    turn = _user_turn(rendering.text, tokenizer) if chat_template else _first_token(tokenizer) + rendering.text
    start = _start(rendering.text, turn)
    if start is None:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path} rewrites the user's text, so the question cannot be found "
            "in it; set chat_template=false"
        )
    return Prompt(turn + rendering.answer_prefix, start + rendering.question_offset, len(turn))


def _start(text: str, turn: str) -> int | None:
    """Return the offset in `turn` of the text's first character, also where the template stripped it."""
    for part in (text, text.strip()):
        if (start := turn.find(part)) >= 0:
            return start - text.index(part)
    return None


def _user_turn(text: str, tokenizer: Any) -> str:
    """Return `text` as a user's turn, up to where the model starts to speak."""
    if not tokenizer.chat_template:
        raise ConfigError(f"{tokenizer.name_or_path} has no chat template; set benchmark.<name>.chat_template=false")
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = FIXED_CLOCK + template
    turn: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
        date_string=TODAY,
    )
    return turn


def _first_token(tokenizer: Any) -> str:
    """Return the token that the tokenizer puts before every plain text, as a string (a chat template spells its own).

    Models trained with one (Llama, Mistral, Gemma) lose their attention sink without it.
    """
    ids = tokenizer("").input_ids
    return tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""
