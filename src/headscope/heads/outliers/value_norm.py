"""Keys with large values: whoever attends to them is moved far.

Shapes: K KV heads, N bulk keys.
"""

from torch import Tensor

from headscope.heads.bulk import Bulk


def importance(bulk: Bulk) -> Tensor:
    """Norm of the value, [K, N]."""
    norm: Tensor = bulk.values.float().norm(dim=-1)
    return norm
