from dataclasses import replace
from importlib import import_module

import pytest
import torch
from decoding_layers import drawn, in_pages

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.window import Window
from headscope.inference.kernel_inputs import means_of, rest_of
from headscope.kernels.common.layer import rows_of

SINK, RECENT = 5, 20


@pytest.mark.parametrize("clusters", [1, 4, 20])
@pytest.mark.parametrize(("join", "page"), [("kernel", 0), ("kernel", 16), ("reference", 0)])
def test_keys_that_leave_the_window_join_as_in_the_library(device, dtype, clusters, join, page) -> None:
    join = import_module(
        {"kernel": "headscope.kernels.decode.update_clusters", "reference": "headscope.kernels.decode.reference"}[join]
    ).join
    steps, lengths = 12, (180, 18, 60)  # the second one has no bulk at first
    layer = drawn(device, dtype, lengths=[length + steps for length in lengths], outliers=0)
    estimator, window = Clusters("clusters", clusters, "diagonal"), Window(SINK, RECENT)
    rows = [rows_of(layer.cache, b) for b in range(3)]
    caches = [LayerCache(0, keys.double(), values.double()) for keys, values in rows]
    between = [window.summarised(length) for length in lengths]
    true = [estimator.summarise(Bulk.between(c, *ends)) for c, ends in zip(caches, between, strict=True)]
    rest, means = rest_of(estimator, true, dtype), means_of(true)
    cache = in_pages(layer.cache, page) if page else layer.cache
    for step in range(1, steps + 1):
        for b, length in enumerate(lengths):
            leaving = length + step - RECENT - 1
            if leaving >= SINK:
                joining = (x[:, leaving : leaving + 1] for x in (caches[b].keys, caches[b].values))
                true[b] = estimator.update(true[b], *joining)
        now = torch.tensor([length + step for length in lengths], dtype=torch.int32, device=device)
        join(replace(cache, lengths=now), rest, means, SINK, RECENT)
    expected, exact = rest_of(estimator, true, dtype), means_of(true)
    torch.testing.assert_close(rest.size, expected.size, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(means.keys, exact.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means.values, exact.values, rtol=1e-4, atol=1e-5)
    eps = torch.finfo(dtype).eps  # both are rounded to it, and may be so to either side
    torch.testing.assert_close(rest.keys.float(), expected.keys.float(), rtol=eps, atol=eps)
    assert (rest.size.sum(-1) > 1).all()
