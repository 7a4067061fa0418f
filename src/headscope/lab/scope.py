"""Which queries decide, which of them are recorded, and where the summaries that they meet were frozen.

`scope=question`: the context is prefilled densely and all later queries meet what the boundary froze. `scope=prompt`:
the context's queries decide too, chunk by chunk; those of a chunk meet what its start froze, so that no query knows a
key behind it.

Shapes: Q recorded queries.
"""

import torch
from torch import Tensor

from headscope.heads.window import Window

SAMPLED = 256
"""Queries of a prompt that are recorded with `scope=prompt`."""


def summary_positions(window: Window, boundary: int, chunk: int | None) -> list[int]:
    """Where outliers and summaries are made, ascending: each serves the queries up to the next; the boundary is last.

    Args:
        window: the local window. Queries before the first with a bulk need nothing.
        boundary: first token of the question.
        chunk: multiples of it start a chunk of the context, in tokens, and shorter ones the first; None for
            `scope=question`.
    """
    if chunk is None:
        return [boundary]
    first = window.sink + window.recent
    # A first chunk as long as the others would meet summaries of nothing; doubled ones meet half of their keys.
    doubled = [first + 2**k - 1 for k in range(chunk.bit_length())]
    starts = {*doubled, *range(first - first % chunk + chunk, boundary, chunk)}
    return [*sorted(start for start in starts if start < boundary), boundary]


def recorded_positions(window: Window, boundary: int, length: int, chunk: int | None) -> Tensor:
    """Positions of the recorded queries, ascending, [Q].

    With `scope=question` all from the boundary on; with `scope=prompt` at most `SAMPLED` of those with a bulk, evenly,
    so that their mean estimates that of all queries of context, question and answer.

    Args:
        window: the local window.
        boundary: first token of the question.
        length: tokens of prompt and answer.
        chunk: as for `summary_positions`.
    """
    if chunk is None:
        return torch.arange(boundary, length)
    # Where no query has a bulk, the last one stands for them: it counts in no statistic.
    first = min(window.sink + window.recent, length - 1)
    count = min(SAMPLED, length - first)
    return first + (2 * torch.arange(count) + 1) * (length - first) // (2 * count)
