"""Texts beyond the limit lose their middle, in tokens, and the question is found again in what is left.

LongBench keeps int(limit / 2) tokens of each end and decodes the ends apart; v2 keeps `limit` tokens in all and decodes
them together. Both decode as the tokenizer does by default, special tokens left out: some tokenizers then drop a space
here or there, so an offset into the text before is no offset into the text after.
"""

from dataclasses import dataclass
from typing import Any

from headscope.errors import AssetError


@dataclass(frozen=True)
class Cut:
    """A text that fits.

    Attributes:
        text: the text, or its two ends.
        question_offset: where the question starts, in characters; where its own start was cut off: the second end.
        truncated: the middle was left out.
    """

    text: str
    question_offset: int
    truncated: bool


@dataclass(frozen=True)
class Limit:
    """The longest text allowed, and how a longer one is cut.

    Attributes:
        tokens: with the special tokens that the tokenizer adds; at least 2.
        halves_apart: LongBench's way; False is v2's.
        tokenizer: the model's.
    """

    tokens: int
    halves_apart: bool
    tokenizer: Any

    def cut(self, text: str, question_offset: int) -> Cut:
        """Return the text with its middle left out if it is too long."""
        ids = self.tokenizer(text, verbose=False).input_ids
        if len(ids) <= self.tokens:
            return Cut(text, question_offset, truncated=False)
        first = self.tokens // 2
        last = first if self.halves_apart else self.tokens - first
        start, end = self._decode(ids[:first]), self._decode(ids[-last:])
        shortened = start + end if self.halves_apart else self._decode(ids[:first] + ids[-last:])
        length = min(self._question_length(text, question_offset, end, last), len(end))
        return Cut(shortened, len(shortened) - length, truncated=True)

    def _question_length(self, text: str, question_offset: int, end: str, kept: int) -> int:
        """Return how many characters before the end of `end`, its last `kept` tokens decoded, the question starts."""
        question = text[question_offset:]
        if end.endswith(question):
            return len(question)
        encoding = self._with_offsets(text)
        token = next(i for i, (_, stop) in enumerate(encoding.offset_mapping) if stop > question_offset)
        if token < len(encoding.input_ids) - kept:
            return len(end)
        decoded = self._decode(encoding.input_ids[token:])
        return len(decoded if question[0].isspace() else decoded.lstrip())

    def _with_offsets(self, text: str) -> Any:
        if not self.tokenizer.is_fast:
            raise AssetError(
                f"tokenizer {type(self.tokenizer).__name__} gives no character offsets, so the question cannot be "
                "found in a truncated text; use a model folder with a tokenizer.json (a fast tokenizer)"
            )
        return self.tokenizer(text, return_offsets_mapping=True, verbose=False)

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
