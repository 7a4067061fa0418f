"""Keys that the probes attend to, with the values that they would bring.

The attention of a probe is over all keys so far, the window's too: a head that looks at its window needs no outliers.

Shapes: H query heads, K KV heads, G = H // K, N bulk keys, T keys, P probes, D head_dim.
"""

import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk


def importance(bulk: Bulk) -> Tensor:
    """Log of the summed attention of the group's heads, times what the value adds to the mean value, [K, N]."""
    cache, queries = bulk.cache, probes_of(bulk)
    scores = torch.einsum("kgpd,ktd->kgpt", queries, cache.keys.float()) * cache.scale
    attention = scores.softmax(-1).mean(2)
    seen = attention.gather(2, bulk.index[:, None].expand(-1, attention.shape[1], -1))
    values = bulk.values.float()
    added = (values - values.mean(1, keepdim=True)).norm(dim=-1)
    weight = cache.probes.weight.view(seen.shape[:2])[..., None]  # type: ignore[union-attr]
    found: Tensor = (seen * weight).sum(1).log() + added.log()
    return found


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
