from dataclasses import replace
from importlib import import_module

import pytest
import torch
from decoding_layers import drawn, in_pages

from headscope.heads.boundary_state import STREAMING
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria.lost_output import LostOutput
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.window import Window
from headscope.inference.kernel_inputs import bulk_summary, cluster_means
from headscope.kernels.common.layer import sequence_keys_and_values

SINK, RECENT = 5, 20


@pytest.mark.parametrize("clusters", [1, 4, 20])
@pytest.mark.parametrize(("module", "page"), [("update_clusters", 0), ("update_clusters", 16), ("reference", 0)])
def test_keys_that_leave_the_window_join_as_in_the_library(device, dtype, clusters, module, page) -> None:
    update_clusters = import_module(f"headscope.kernels.decode.{module}").update_clusters
    steps, lengths = 12, (180, 18, 60)  # the second one has no bulk at first
    layer = drawn(device, dtype, lengths=[length + steps for length in lengths], outliers=0)
    estimator, window = Clusters("clusters", clusters, "diagonal"), Window(SINK, RECENT)
    criterion = LostOutput(torch.zeros(1), estimator, summaries=STREAMING)
    rows = [sequence_keys_and_values(layer.cache, b) for b in range(3)]
    caches = [LayerCache(0, keys.double(), values.double()) for keys, values in rows]
    bulks = [Bulk.between(c, *window.summarised(length)) for c, length in zip(caches, lengths, strict=True)]
    exact = [estimator.summarise(bulk) for bulk in bulks]
    summary, means = bulk_summary(criterion, exact, dtype), cluster_means(criterion, exact)
    cache = in_pages(layer.cache, page) if page else layer.cache
    for step in range(1, steps + 1):
        for b, length in enumerate(lengths):
            leaving = length + step - RECENT - 1
            if leaving >= SINK:
                key, value = (x[:, leaving : leaving + 1] for x in (caches[b].keys, caches[b].values))
                exact[b] = estimator.update(exact[b], key, value)
        now = torch.tensor([length + step for length in lengths], dtype=torch.int32, device=device)
        update_clusters(replace(cache, lengths=now), summary, means, SINK, RECENT)
    expected, expected_means = bulk_summary(criterion, exact, dtype), cluster_means(criterion, exact)
    torch.testing.assert_close(summary.size, expected.size, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(means.keys, expected_means.keys, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means.values, expected_means.values, rtol=1e-4, atol=1e-5)
    eps = torch.finfo(dtype).eps  # both are rounded to it, and may be so to either side
    torch.testing.assert_close(summary.keys.float(), expected.keys.float(), rtol=eps, atol=eps)
    assert (summary.size.sum(-1) > 1).all()
