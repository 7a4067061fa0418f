"""The first keys of the bulk.

Shapes: K KV heads, R rows, Q queries, N bulk keys.
"""

import torch

from headscope.heads.selectors import Choice

PLAN = {"options": {"every": {"type": "int", "help": "keys between two that are read", "low": 1}}}


class FirstKeys:
    """Chooses every so many-th key, from the first on, whatever the query."""

    def __init__(self, every: int):
        self.every = every

    def index(self, bulk):
        """Return the number of keys."""
        return bulk.index.shape[1]

    def choose(self, query, window_mass, index, most, scale):
        """Choose the first."""
        places = torch.arange(index)
        chosen = (places % self.every == 0) & (places // self.every < most.floor()[..., None])
        return Choice(chosen.expand(len(query), *chosen.shape))

    def index_bytes(self, keys, head_dim):
        """Return zero: nothing is read to choose."""
        return 0.0


def build(spec):
    """Make the selector."""
    return FirstKeys(spec["every"])
