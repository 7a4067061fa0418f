"""Keys whose scores differ most from the mean key's, over the probes: E[(q' (k - mean))^2].

Shapes: K KV heads, G query heads a KV head, N bulk keys, P probes, D head_dim.
"""

from torch import Tensor

from headscope.heads.bulk import Bulk
from headscope.heads.outliers.probe_attention import probes_of


def importance(bulk: Bulk) -> Tensor:
    """Mean squared score of the centred key, over the group's probes, [K, N]."""
    keys = bulk.keys.float()
    queries = probes_of(bulk).flatten(1, 2)
    centred = keys - keys.mean(1, keepdim=True)
    return (centred @ queries.transpose(1, 2)).square().mean(-1)
