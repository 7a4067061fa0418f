"""Selectors: which bulk keys a KV head reads for a query, where it reads any. One file each, found by name.

A selector indexes a layer's bulk once, at the boundary; keys that leave the window later are read whatever it chooses.
All query heads of a KV head see what is read, so it chooses for them together.

Shapes: R rows, K KV heads, G query heads of each, Q queries, N bulk keys, D head_dim.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from headscope.heads import registry
from headscope.heads.bulk import Bulk


class Choice(NamedTuple):
    """What a selector makes of a layer's bulk for some queries.

    Attributes:
        keys: which are read, bool [K, R, Q, N].
        rest: log mass, [K, R, G, Q], and mean value, [K, R, G, Q, D], that stand for all others; None: nothing does.
    """

    keys: Tensor
    rest: tuple[Tensor, Tensor] | None = None


class Selector(Protocol):
    """Chooses bulk keys by an index of them."""

    def index(self, bulk: Bulk) -> Any:
        """Index a layer's bulk, as many keys of each KV head."""

    def choose(self, query: Tensor, window_mass: Tensor, index: Any, most: Tensor, scale: float) -> Choice:
        """Choose keys of every KV head.

        Args:
            query: float32 or better, [K, R, G, Q, D].
            window_mass: log mass of the queries' windows, [K, R, G, Q].
            index: of the layer's bulk.
            most: how many keys a row's query may read of each KV head, [R, Q], not negative.
            scale: factor of the scores.
        """

    def index_bytes(self, keys: int, head_dim: int) -> float:
        """Return the bytes that one choice reads of a KV head's index of so many keys."""


def build(spec: Mapping[str, Any]) -> Selector:
    """Make the selector that a slice of the configuration names."""
    selector: Selector = registry.load("selectors", spec["kind"]).build(spec)
    return selector


def ranks(importance: Tensor) -> Tensor:
    """Rank by importance along the last dimension: 0 for the most important, the earlier of equals first.

    A NaN comes first: what cannot be told must not be lost.
    """
    known = importance.nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("-inf"))
    order: Tensor = known.argsort(stable=True, dim=-1, descending=True)
    return order.argsort(-1)


def shares(log_weight: Tensor, window_mass: Tensor) -> Tensor:
    """Add up over the heads of a group what share of each head's attention a key, or a block of keys, has.

    Args:
        log_weight: log mass of each of M of them, [K, R, G, Q, M].
        window_mass: log mass of the window, [K, R, G, Q].

    Returns:
        [K, R, Q, M], at most G.
    """
    whole = window_mass.logaddexp(log_weight.logsumexp(-1))
    return (log_weight - whole[..., None]).exp().sum(2)
