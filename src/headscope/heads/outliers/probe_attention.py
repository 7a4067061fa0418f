"""Rule for outliers: keys that the probes attend to, weighted by what their values add.

A probe attends to all keys so far, those of the window too: a head that looks at its window needs no outliers.

Shapes: K KV heads, G query heads a KV head, N bulk keys, T keys, P probes, D head_dim.
"""

import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk
from headscope.heads.mass import query_chunks

PLAN = {"probes": True, "across_heads": True}


def importance(bulk: Bulk) -> Tensor:
    """Return the log of the group's summed attention times the value's distance from the mean value, [K, N].

    Raises:
        ConfigError: the model was not fitted with probes.
    """
    cache, heads = bulk.cache, len(bulk.index)
    if cache.probes is None:
        raise ConfigError("outliers by probe_attention need probes, which the model was not fitted with; choose recent")
    queries = cache.probes.queries.float()
    queries = queries.view(heads, -1, *queries.shape[1:])
    _, group, probes, _ = queries.shape
    weight = cache.probes.weight.float().view(heads, group, 1).expand(-1, -1, probes) / probes
    chunks = query_chunks(heads, group * probes * cache.keys.shape[1], queries.device)
    attention = [_attention(queries[part], cache.keys[part], weight[part], cache.scale) for part in chunks]
    values = bulk.values.float()
    added = (values - values.mean(1, keepdim=True)).norm(dim=-1)
    importances: Tensor = torch.cat(attention).gather(1, bulk.index).log() + added.log()
    return importances


def _attention(queries: Tensor, keys: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Sum the attention of queries [K, G, P, D] to keys [K, T, D] by the queries' weights, [K, G, P]: [K, T]."""
    scores = queries.flatten(1, 2) * scale @ keys.float().transpose(1, 2)
    return (weight.flatten(1)[:, None] @ scores.softmax(-1))[:, 0]
