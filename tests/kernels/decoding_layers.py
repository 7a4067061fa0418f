"""Random layers for adaptive decoding, with poison wherever nothing may be read."""

from dataclasses import dataclass, fields, replace

import torch

from headscope.kernels.common.layer import BulkSummary, Cache, DecisionRule, OutlierKeys


def rounding(dtype: torch.dtype) -> dict[str, float]:
    """Tolerances of outputs of a few units that are rounded to this type, as are the weights behind them."""
    eps = torch.finfo(dtype).eps
    return {"rtol": 2 * eps, "atol": 6 * eps}


@dataclass(frozen=True)
class Layer:
    query: torch.Tensor
    cache: Cache
    summary: BulkSummary
    rule: DecisionRule
    outliers: OutlierKeys | None


def drawn(device, dtype, kv_heads=2, group=3, dim=64, lengths=(300, 70), clusters=5, outliers=7, full=False, seed=0,
          norm=2.0, **rule):  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    batch, heads = len(lengths), kv_heads * group

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    size = max(lengths) + 5
    behind = torch.arange(size, device=device) >= torch.tensor(lengths, device=device)[:, None]
    keys, values = (normal(batch, kv_heads, size, dim).to(dtype) for _ in range(2))
    for x in (keys, values):
        x.transpose(1, 2)[behind] = torch.nan
    root = normal(batch, kv_heads, dim, dim) * (0.5 / dim**0.5)
    covariance = root @ root.transpose(2, 3) if full else root.diagonal(dim1=2, dim2=3).square()
    summary = BulkSummary(
        normal(batch, kv_heads, clusters).exp(),
        normal(batch, kv_heads, clusters, dim).to(dtype),
        normal(batch, kv_heads, clusters, dim).to(dtype),
        covariance.to(dtype).contiguous(),
        normal(batch, kv_heads, clusters).exp(),
    )
    outlier_keys = None
    if outliers:
        count = torch.randint(0, outliers + 1, (batch, kv_heads), generator=generator, dtype=torch.int32).to(device)
        outside = torch.arange(outliers, device=device) >= count[..., None]
        pairs = [normal(batch, kv_heads, outliers, dim).to(dtype) for _ in range(2)]
        for x in pairs:
            x[outside] = torch.nan
        outlier_keys = OutlierKeys(*pairs, count)
    options = {"threshold": normal(batch, heads), "slope": 1 + normal(heads) / 4, "offset": normal(heads)} | rule
    cache = Cache(keys, values, torch.tensor(lengths, dtype=torch.int32, device=device))
    return Layer((normal(batch, heads, dim) * norm).to(dtype), cache, summary, DecisionRule(**options), outlier_keys)


def in_pages(cache: Cache, page: int) -> Cache:
    """The same keys in shuffled pages."""
    batch, kv_heads, size, dim = cache.keys.shape
    many = -(-size // page)
    order = torch.randperm(batch * many, generator=torch.Generator().manual_seed(1)).to(cache.keys.device)
    stored = []
    for x in (cache.keys, cache.values):
        whole = x.new_full((batch, kv_heads, many * page, dim), torch.nan)
        whole[:, :, :size] = x
        pages = whole.view(batch, kv_heads, many, page, dim).transpose(1, 2).flatten(0, 1)
        stored.append(torch.empty_like(pages).index_copy(0, order, pages))
    return Cache(*stored, cache.lengths, order.view(batch, many).int())


def double(layer: Layer) -> Layer:
    """All that is a number in float64."""

    def raised(x):
        if x is None or isinstance(x, bool):
            return x
        return x.double() if x.is_floating_point() else x

    parts = (layer.cache, layer.summary, layer.rule, layer.outliers)
    return Layer(
        layer.query.double(),
        *(None if x is None else replace(x, **{f.name: raised(getattr(x, f.name)) for f in fields(x)}) for x in parts),
    )
