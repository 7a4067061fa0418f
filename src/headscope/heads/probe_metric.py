"""The probes' metric: two keys are alike if their scores with the probes are, by mean squared differences.

Shapes: K KV heads, G query heads a KV head, N bulk keys, P probes, D head_dim.
"""

import torch
from torch import Tensor

from headscope.heads.bulk import Bulk

RIDGE = 1e-3
"""Added to the metric, as a share of its mean: directions that no probe looks into still tell keys apart."""


def probe_metric(bulk: Bulk, dtype: torch.dtype) -> Tensor:
    """Return the factor L of the probes' mean q q' = L L', [K, D, D], lower triangular; the identity without probes.

    Distances of rows k L are root mean square differences of scores over the group's probes.
    """
    kv_heads, _, dim = bulk.cache.keys.shape
    identity = torch.eye(dim, dtype=dtype, device=bulk.cache.keys.device)
    if bulk.cache.probes is None:
        return identity.expand(kv_heads, -1, -1)
    queries = bulk.cache.probes.queries.to(dtype).reshape(kv_heads, -1, dim)
    metric = queries.transpose(1, 2) @ queries / queries.shape[1]
    ridge = RIDGE * metric.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    factor: Tensor = torch.linalg.cholesky(metric + ridge * identity)
    return factor
