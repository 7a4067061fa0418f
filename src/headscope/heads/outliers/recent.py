"""A control: the latest bulk keys, as a wider window would hold them.

Shapes: K KV heads, N bulk keys.
"""

from torch import Tensor

from headscope.heads.bulk import Bulk


def importance(bulk: Bulk) -> Tensor:
    """Return the positions, [K, N]."""
    return bulk.index.double()
