"""Truncation: a text beyond the limit loses its middle, and the offset of its question moves.

LongBench keeps int(limit / 2) tokens of each end and decodes the ends apart; v2 keeps `limit` tokens in all and decodes
them together. Both decode as the tokenizer does by default, special tokens left out: some tokenizers then drop a space
here or there, so an offset into the text before is no offset into the text after.
"""

from dataclasses import dataclass
from typing import Any

from headscope.benchmarks.encoding import with_offsets


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
        """Return the text, without its middle if it is too long; raises as `with_offsets` does."""
        ids = self.tokenizer(text, verbose=False).input_ids
        if len(ids) <= self.tokens:
            return Cut(text, question_offset, truncated=False)
        first = self.tokens // 2
        last = first if self.halves_apart else self.tokens - first
        start, end = self._decode(ids[:first]), self._decode(ids[-last:])
        shortened = start + end if self.halves_apart else self._decode(ids[:first] + ids[-last:])
        length = min(self._question_length(text, question_offset, end, last), len(end))
        return Cut(shortened, len(shortened) - length, truncated=True)

    def _question_length(self, text: str, question_offset: int, end: str, tokens: int) -> int:
        """Return how many characters before its end the question starts in `end`, the last `tokens` tokens decoded."""
        question = text[question_offset:]
        if end.endswith(question):
            return len(question)
        encoding = with_offsets(self.tokenizer, text)
        token = next(i for i, (_, stop) in enumerate(encoding.offset_mapping) if stop > question_offset)
        if token < len(encoding.input_ids) - tokens:
            return len(end)
        decoded = self._decode(encoding.input_ids[token:])
        return len(decoded if question[0].isspace() else decoded.lstrip())

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
