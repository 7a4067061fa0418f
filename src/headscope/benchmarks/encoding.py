"""Tokens of a prompt: the full string is tokenised once, and character offsets say where its parts start.

Tokenising the parts apart would give other tokens at the seams than the model sees.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from headscope.errors import AssetError


@dataclass(frozen=True)
class Encoded:
    """A prompt in tokens.

    Attributes:
        ids: token ids of the full string.
        boundary: the first token that starts at or after the question; the context is `ids[:boundary]`.
        prefix_start: the first token that starts at or after the answer prefix.
    """

    ids: list[int]
    boundary: int
    prefix_start: int


def count_tokens(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of `text`, special tokens only where the text spells them."""
    return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def with_offsets(tokenizer: Any, text: str, **options: Any) -> Any:
    """Tokenise `text` with the characters that each token stands for, as `offset_mapping`.

    Raises:
        AssetError: the tokenizer is a slow one, which knows no character offsets.
    """
    if not tokenizer.is_fast:
        raise AssetError(
            f"tokenizer {type(tokenizer).__name__} gives no character offsets, so the question cannot be found in "
            "tokens; use a model folder with a tokenizer.json (a fast tokenizer)"
        )
    return tokenizer(text, return_offsets_mapping=True, verbose=False, **options)


def encode(tokenizer: Any, text: str, question_offset: int, prefix_offset: int) -> Encoded:
    """Tokenise the full `text` once; offsets are in characters of `text`; raises as `with_offsets` does."""
    encoding = with_offsets(tokenizer, text, add_special_tokens=False)
    starts = [start for start, _ in encoding.offset_mapping]
    return Encoded(encoding.input_ids, bisect_left(starts, question_offset), bisect_left(starts, prefix_offset))
