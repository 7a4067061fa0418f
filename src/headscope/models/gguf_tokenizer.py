"""Compares the tokenizer that transformers makes of a GGUF file with what the file itself says.

A file holds tokens, scores or merges; how they cut a text is in the code that reads it, which differs between versions
of transformers. So a few texts are cut here by the file's own rule and compared.
"""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import transformers

from headscope.errors import AssetError

SPECIAL = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
DIGITS = {1: "qwen2 smollm tekken starcoder refact command-r", 3: "llama-bpe llama3 llama-v3 smaug-bpe dbrx gpt-4o"}
"""Digits of a number that are cut together, by the file's `tokenizer.ggml.pre`; other ones cut numbers as words."""
WORDS = "The quick brown fox jumps over lazy dogs while unbelievably heavy elephants watch attentively"
NUMBER = "1234567"
ROUND_TRIP = "naïve café, x1 = 12345;\n\n\tif (a  < b): print('日本', \"it's\") # 😀\n"
CONTROL = 3
"""Type of the tokens that no text is cut into, such as the ends of a turn."""


def set_special_tokens(tokenizer: Any, fields: dict[str, Any]) -> None:
    """Take the start, end, padding and unknown token from the file: older versions of transformers guess them."""
    for name, key in SPECIAL.items():
        token = _field(fields, f"{key}_token_id")
        if token is not None:
            setattr(tokenizer, name, _field(fields, "tokens")[token])


def check_tokenizer(tokenizer: Any, fields: dict[str, Any], gguf: Path) -> None:
    """Compare vocabulary, special tokens, chat template and the cuts of a few texts with the file's fields.

    Raises:
        AssetError: something differs, or the file's kind of tokenizer is not implemented.
    """
    kind = _field(fields, "model")
    if kind not in ("llama", "gpt2"):
        raise AssetError(f"{gguf} has a tokenizer of kind {kind}, only llama and gpt2 are implemented; choose another")
    for test in (_vocabulary, _around_texts, _cuts, _round_trip):
        fault = test(tokenizer, fields)
        if fault:
            raise AssetError(
                f"transformers {transformers.__version__} makes another tokenizer of {gguf} than the file says: "
                f"{fault}; install a newer transformers, or take the model's safetensors"
            )


def _vocabulary(tokenizer: Any, fields: dict[str, Any]) -> str | None:
    tokens = _field(fields, "tokens")
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    for number, token in enumerate(tokens):
        # Gemma's files spell tokens of several spaces with real ones.
        if words.get(number) not in (token, token.replace(" ", "▁")):
            return f"token {number} is {words.get(number)!r} instead of {token!r}"
    return None


def _around_texts(tokenizer: Any, fields: dict[str, Any]) -> str | None:
    """Compare the chat template, the tokens that it spells, and whether a text begins with the start token."""
    template, tokens = fields.get("tokenizer.chat_template"), _field(fields, "tokens")
    if template is not None and tokenizer.chat_template != template:
        return "its chat template is another"
    types = _field(fields, "token_type") or []
    for number in (
        number for number, kind in enumerate(types) if kind == CONTROL and tokens[number] in (template or "")
    ):
        pieces = _pieces(tokenizer, tokens[number])
        if pieces != [tokens[number]]:
            return f"the special token {tokens[number]!r} is cut into {pieces}"
    adds, start = _field(fields, "add_bos_token"), _field(fields, "bos_token_id")
    if None not in (adds, start) and (tokenizer("a")["input_ids"][0] == start) != adds:
        return f"texts begin {'without' if adds else 'with'} the start token {tokens[start]!r}"
    return None


def _cuts(tokenizer: Any, fields: dict[str, Any]) -> str | None:
    """Cut words and, where its rule is known, a number by the file's scores or merges."""
    cut = _by_scores if _field(fields, "model") == "llama" else _by_merges
    for text in (WORDS, NUMBER):
        expected, pieces = cut(text, fields), _pieces(tokenizer, text)
        if pieces != expected:
            at = next(
                i for i, (own, other) in enumerate(zip([*expected, ""], [*pieces, ""], strict=False)) if own != other
            )
            return f"{text!r} is cut into {pieces[at : at + 4]} instead of {expected[at : at + 4]} from piece {at} on"
    return None


def _round_trip(tokenizer: Any, fields: dict[str, Any]) -> str | None:
    back = tokenizer.decode(tokenizer(ROUND_TRIP, add_special_tokens=False)["input_ids"])
    return None if back == ROUND_TRIP else f"{ROUND_TRIP!r} comes back as {back!r}"


def _by_scores(text: str, fields: dict[str, Any]) -> list[str]:
    """Cut a text as SentencePiece's BPE does: join the neighbours whose token has the highest score."""
    tokens, scores = _field(fields, "tokens"), _field(fields, "scores")
    ranks = {token: -score for token, score in zip(tokens, scores, strict=True)}
    prefix = " " if _field(fields, "add_space_prefix") in (None, True) else ""
    return _join(list((prefix + text).replace(" ", "▁")), lambda left, right: ranks.get(left + right, math.inf))


def _by_merges(text: str, fields: dict[str, Any]) -> list[str]:
    """Cut words and numbers as GPT-2's BPE does: join neighbours in the order of the merges."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(_field(fields, "merges"))}
    pre = _field(fields, "pre")
    together = next((str(count) for count, names in DIGITS.items() if pre in names.split()), "")
    words = re.findall(rf" ?[A-Za-z]+|\d{{1,{together}}}", text)
    cuts = [
        _join(list(word.replace(" ", "Ġ")), lambda left, right: ranks.get((left, right), math.inf)) for word in words
    ]
    return [piece for cut in cuts for piece in cut]


def _join(pieces: list[str], rank: Callable[[str, str], float]) -> list[str]:
    """Join the neighbours with the lowest rank, the first ones of equals, until no two have a finite rank."""
    while len(pieces) > 1:
        ranks = [rank(left, right) for left, right in pairwise(pieces)]
        best = min(ranks)
        if best == math.inf:
            break
        at = ranks.index(best)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def _pieces(tokenizer: Any, text: str) -> list[str]:
    pieces: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
    return pieces


def _field(fields: dict[str, Any], name: str) -> Any:
    return fields.get(f"tokenizer.ggml.{name}")
