"""Assembles the full string of a prompt: chat template around the user's turn, answer prefix after it."""

import random
import re
import sys
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

from headscope.benchmarks.task import Rendering
from headscope.errors import ConfigError

# Some templates print today's date, from one of two names; a prompt made tomorrow must have the same bytes.
# transformers passes no function on to a template, so the second is defined in the template itself.
TODAY = "26 Jul 2024"
FIXED_CLOCK = "{% macro strftime_now(format) %}" + TODAY + "{% endmacro %}"
ADDRESS = re.compile(" at 0x[0-9a-f]{6}")
SECONDS = 5
"""That a template may take for a text of one letter."""

_ENDING: set[str] = set()
"""Templates that were tried."""


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
        ConfigError: the tokenizer has no chat template, or it fails, does not end, writes another text each time, or
            does not write the user's text once, as it is.
    """
    if not chat_template:
        first = _first_token(tokenizer)
        turn, start, visible = first + rendering.text, len(first), len(first)
    else:
        template = _template(tokenizer)
        _refuse_endless(tokenizer, template)
        turn = _user_turn(rendering.text, tokenizer, template)
        visible, stripped = _place(rendering.text, turn, tokenizer)
        start = visible - stripped
    question = max(start + rendering.question_offset, visible)
    return Prompt(turn + rendering.answer_prefix, question, len(turn))


def _place(text: str, turn: str, tokenizer: Any) -> tuple[int, int]:
    """Return the offset in `turn` of the text's first character that is there, and how many the template stripped."""
    part = text if text in turn else text.strip()
    times = turn.count(part) if part else 1
    if times != 1:
        how = "rewrites the user's text" if not times else f"writes the user's text {times} times"
        raise _refusal(tokenizer, f"{how}, so the question cannot be found in it")
    if ADDRESS.search(turn.replace(part, "")):
        raise _refusal(tokenizer, "writes addresses of memory, which differ each time")
    return turn.index(part), text.index(part)


def _template(tokenizer: Any) -> str:
    """Return the tokenizer's chat template, with a clock that stands still."""
    if not tokenizer.chat_template:
        name = tokenizer.name_or_path
        raise ConfigError(f"{name} has no chat template; set benchmark.<name>.chat_template=false")
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # it has several, and none is the default
        raise _refusal(tokenizer, f"cannot be chosen ({' '.join(str(error).split()):.200})") from error
    if not isinstance(template, str):
        raise _refusal(tokenizer, f"is a {type(template).__name__}, not a text")
    return FIXED_CLOCK + template if "strftime_now" in template else template


def _user_turn(text: str, tokenizer: Any, template: str) -> str:
    """Return `text` as a user's turn, up to where the model starts to speak."""
    draws = random.getstate()
    try:
        turn: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
            date_string=TODAY,
        )
        turn.encode()
    except Exception as error:  # a template is a program of the model's maker and raises what it likes
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        raise _refusal(tokenizer, f"cannot write a user's turn ({reason})") from error
    if random.getstate() != draws:
        random.setstate(draws)
        raise _refusal(tokenizer, "draws at random, so that each prompt would be another one")
    return turn


def _refuse_endless(tokenizer: Any, template: str) -> None:
    """Try a template once for a text of one letter: nothing bounds its loops."""
    if template in _ENDING:
        return
    last, before = monotonic() + SECONDS, sys.gettrace()

    def stop(frame: FrameType, *_: Any) -> Any:
        """Raise in the template's own code; Python calls this at each line that runs."""
        if frame.f_code.co_filename == "<template>" and monotonic() > last:
            raise TimeoutError(f"it does not end within {SECONDS} s")
        return stop

    sys.settrace(stop)
    try:
        _user_turn("a", tokenizer, template)
    finally:
        sys.settrace(before)
    _ENDING.add(template)


def _refusal(tokenizer: Any, fault: str) -> ConfigError:
    name = f"the chat template of {tokenizer.name_or_path}"
    return ConfigError(f"{name} {fault}; set benchmark.<name>.chat_template=false, or give the model another one")


def _first_token(tokenizer: Any) -> str:
    """Return the token that the tokenizer puts before every plain text, as a string (a chat template spells its own).

    Models trained with one (Llama, Mistral, Gemma) lose their attention sink without it.
    """
    ids = tokenizer("").input_ids
    return tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""
