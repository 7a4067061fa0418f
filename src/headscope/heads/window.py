"""The local window: the first keys (sink) and the last keys (recent) up to the query itself.

Shapes: Q queries, T keys. Positions are absolute token indices, key j is visible to query t iff j <= t.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Which keys are local to a query; all other visible keys are its bulk (arXiv 2502.09647, section 3).

    Attributes:
        sink: first keys of the sequence that always belong to the window.
        recent: last keys up to and including the query's own; sink keys are not counted in it.
    """

    sink: int = 16
    recent: int = 128

    def local(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """Mark the visible keys inside the window, bool [Q, T]."""
        query, key = query_position[:, None], key_position[None, :]
        return (key <= query) & ((key < self.sink) | (key > query - self.recent))

    def bulk(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """Mark the visible keys outside the window, bool [Q, T]."""
        query, key = query_position[:, None], key_position[None, :]
        return (key >= self.sink) & (key <= query - self.recent)

    def bulk_size(self, query_position: Tensor) -> Tensor:
        """Count the bulk keys of each query, [Q]; zero while the window covers all keys."""
        return (query_position + 1 - self.sink - self.recent).clamp(min=0)

    def columns(self, first: int, last: int) -> list[range]:
        """Keys inside the window of any of the queries first <= t < last: sinks, then the others."""
        sinks = min(self.sink, last)
        return [range(sinks), range(max(sinks, first + 1 - self.recent), last)]

    def summarised(self, boundary: int) -> tuple[int, int]:
        """First and last (exclusive) key that a summary frozen at the boundary describes."""
        return self.sink, max(self.sink, boundary - self.recent)
