"""Layers whose outliers and summaries are made together have those of layers that are taken one by one."""

from dataclasses import replace

import pytest
import torch

from headscope.heads.bulk import LayerCache, Probes
from headscope.heads.estimators import build
from headscope.heads.moments import KeyMoments
from headscope.heads.outliers import NO_OUTLIERS, OutlierRule
from headscope.lab import at_boundary as module
from headscope.lab.at_boundary import at_boundary, joined_prompts

KV_HEADS, GROUP, TOKENS, DIM, ENDS = 2, 3, 70, 8, (4, 60)
CLUSTERS = {"kind": "clusters", "name": "c", "clusters": 4, "covariance": "full", "bits": 8}
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}
CASES = [
    (NO_OUTLIERS, [GAUSSIAN, CLUSTERS]),
    (NO_OUTLIERS, []),
    (OutlierRule("recent", 5), [GAUSSIAN]),
    (OutlierRule("last_queries", 6, bits=4), [CLUSTERS]),
    (OutlierRule("probe_attention", 6, bits=4, shared=0.5), [CLUSTERS]),
]


def caches(*scales: float) -> list[LayerCache]:
    """Layers 1, 2, ... with these factors of scores; their KV heads differ in how they spread attention."""
    draw = torch.Generator().manual_seed(0)

    def cache(layer: int, scale: float) -> LayerCache:
        keys, values = (torch.randn(KV_HEADS, TOKENS, DIM, generator=draw) * (1 + layer) for _ in range(2))
        queries = torch.randn(KV_HEADS * GROUP, 16, DIM, generator=draw)
        weight = torch.rand(KV_HEADS * GROUP, generator=draw) * layer
        return LayerCache(layer, keys, values, scale, Probes(queries, weight), queries[:, :9])

    return [cache(layer, scale) for layer, scale in enumerate(scales, start=1)]


def tensors_of(value) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    module.map_tensors(value, lambda x: found.append(x) or x)
    return found


@pytest.fixture
def joined(monkeypatch) -> list[int]:
    """Let this processor take layers together; how many at a time."""
    counts: list[int] = []
    monkeypatch.setitem(module.TOGETHER, "cpu", 3 * KV_HEADS * TOKENS * DIM)
    join = module._one_layer
    monkeypatch.setattr(module, "_one_layer", lambda layers: counts.append(len(layers)) or join(layers))
    return counts


@pytest.mark.parametrize(("rule", "specs"), CASES)
def test_layers_together_have_the_outliers_and_summaries_of_single_ones(monkeypatch, joined, rule, specs):
    layers, estimators = caches(0.3, 0.3, 0.3, 0.3, 0.5), [build(spec, {}) for spec in specs]
    together = at_boundary(layers, ENDS, rule, estimators, GROUP)
    assert set(joined) == {3, 1}
    monkeypatch.delitem(module.TOGETHER, "cpu")
    alone = at_boundary(layers, ENDS, rule, estimators, GROUP)
    assert list(together) == list(alone) == [1, 2, 3, 4, 5]
    for layer, expected in alone.items():
        assert torch.equal(together[layer].taken, expected.taken)
        assert together[layer].taken.sum() == expected.state.present.sum()
        for ours, theirs in zip(tensors_of(together[layer]), tensors_of(expected), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_moments_of_another_text_keep_layers_apart(joined):
    moments = {layer: KeyMoments.of(torch.randn(KV_HEADS, 9, DIM)) for layer in (1, 2)}
    estimator = build({**GAUSSIAN, "moments": "prose"}, {"prose": moments})
    together = at_boundary(caches(0.3, 0.3), ENDS, NO_OUTLIERS, [estimator], GROUP)
    assert joined == [1, 1]
    for layer, expected in moments.items():
        assert torch.equal(together[layer].state.summaries.of["g"].moments.mean, expected.mean)


@pytest.mark.parametrize("shared", [[0.0, 0.0], [0.0, 0.5], [0.5, 0.5]], ids=str)
def test_prompts_of_different_lengths_become_one_with_zeros_behind_the_shorter(shared):
    estimators, heads, states = [build(CLUSTERS, {})], KV_HEADS * GROUP, []
    for seed, (tokens, share) in enumerate(zip((TOKENS, TOKENS - 7), shared, strict=True)):
        [layer] = caches(0.3 + seed)
        layer = replace(layer, keys=layer.keys[:, :tokens], values=layer.values[:, :tokens])
        rule = OutlierRule("last_queries", 5 + seed, shared=share)
        states.append(at_boundary([layer], (2, tokens - 3), rule, estimators, GROUP)[layer.layer])
    one = joined_prompts(states, heads)
    for part in ("keys", "values", "present"):
        check_joined(getattr(one.state, part), [getattr(each.state, part) for each in states])
    check_joined(one.taken, [each.taken for each in states])
    for whole, *parts in zip(*(tensors_of(each.state.summaries.of) for each in (one, *states)), strict=True):
        check_joined(whole, parts)
    counts = [torch.as_tensor(each.state.summaries.outliers).expand(heads, 1) for each in states]
    assert torch.equal(torch.as_tensor(one.state.summaries.outliers).expand(2 * heads, 1), torch.cat(counts))


def check_joined(whole, parts):
    """Each part is where its prompt's KV heads are, and what is longer there is zero."""
    assert len(whole) == sum(map(len, parts))
    for found, part in zip(torch.split(whole, [len(part) for part in parts]), parts, strict=True):
        assert torch.equal(found[:, : part.shape[1]], part) and not found[:, part.shape[1] :].any()
