"""Keys that the probes attend to, with the values that they would bring.

The attention of a probe is over all keys so far, the window's too: a head that looks at its window needs no outliers.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, T keys, P probes, D head_dim.
"""

import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk
from headscope.heads.mass import query_chunks


def importance(bulk: Bulk) -> Tensor:
    """Log of the summed attention of the group's heads, times what the value adds to the mean value, [K, N]."""
    queries, cache = probes_of(bulk), bulk.cache
    heads, group, probes, _ = queries.shape
    weight = cache.probes.weight.float().view(heads, group, 1).expand(-1, -1, probes) / probes  # type: ignore[union-attr]
    chunks = query_chunks(heads, group * probes * cache.keys.shape[1], queries.device)
    seen = [_attention(queries[part], cache.keys[part], weight[part], cache.scale) for part in chunks]
    values = bulk.values.float()
    added = (values - values.mean(1, keepdim=True)).norm(dim=-1)
    found: Tensor = torch.cat(seen).gather(1, bulk.index).log() + added.log()
    return found


def _attention(queries: Tensor, keys: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Attention to the keys, [K, T, D], summed over queries, [K, G, P, D], by their weights, [K, G, P]: [K, T]."""
    scores = queries.flatten(1, 2) * scale @ keys.float().transpose(1, 2)
    return (weight.flatten(1)[:, None] @ scores.softmax(-1))[:, 0]


def probes_of(bulk: Bulk) -> Tensor:
    """The probes of each KV head's group, [K, G, P, D].

    Raises:
        ConfigError: the model was not fitted with probes.
    """
    if bulk.cache.probes is None:
        raise ConfigError(
            "this rule for outliers needs probes, which the model was not fitted with; choose mahalanobis"
        )
    queries = bulk.cache.probes.queries.float()
    return queries.view(bulk.index.shape[0], -1, *queries.shape[1:])
