"""A control: the latest bulk keys, as a wider window would take them.

Shapes: K KV heads, N bulk keys.
"""

from torch import Tensor

from headscope.heads.bulk import Bulk


def importance(bulk: Bulk) -> Tensor:
    """Position, [K, N]."""
    return bulk.index.double()
