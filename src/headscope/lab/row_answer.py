"""What a row has answered so far."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class RowAnswer:
    """Tokens of a row, and why it stopped.

    Attributes:
        tokens: without the stop token.
        stop: "eos" or "length"; empty while the row goes on.
    """

    tokens: list[int] = field(default_factory=list)
    stop: str = ""

    def extend(self, tokens: Sequence[int], most: int, eos: set[int]) -> None:
        """Take tokens up to the row's stop: a stop token, or as many tokens as there may be."""
        for token in tokens:
            if not self.stop and token in eos:
                self.stop = "eos"
            elif not self.stop:
                self.tokens.append(token)
                self.stop = "length" if len(self.tokens) == most else ""
