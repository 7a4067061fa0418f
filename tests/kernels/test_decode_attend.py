from dataclasses import replace

import pytest
import torch
from decoding_layers import Layer, double, drawn, in_pages, rounding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.errors import ShapeError
from headscope.heads.boundary_state import Summaries
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.calibration.maps import LayerMap, MarginMap
from headscope.heads.criteria.lost_output import LostOutput
from headscope.heads.criteria.qada import Qada
from headscope.heads.estimators.clusters import Clusters
from headscope.heads.estimators.gaussian import Gaussian
from headscope.heads.view import LayerView
from headscope.heads.window import Window
from headscope.inference.kernel_inputs import bulk_summary
from headscope.kernels.common.layer import sequence_keys_and_values
from headscope.kernels.decode import reference

SINK, RECENT, PROGRAMS = 5, 20, 7
UNDECIDED = 0.05
"""Margins so near to the threshold that rounding may decide."""


def by_kernels(layer: Layer, cache=None, sink=SINK, recent=RECENT, programs=PROGRAMS):
    from headscope.kernels.decode.attend import Workspace, attend_step

    workspace = Workspace.of(layer.query, layer.summary.keys.shape[1], programs)
    for x in vars(workspace).values():
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            x.fill_(torch.nan)
    scale = layer.query.shape[-1] ** -0.5
    return attend_step(
        layer.query, cache or layer.cache, layer.summary, layer.rule, sink, recent, scale, layer.outliers, workspace
    )


def by_reference(layer: Layer, sink=SINK, recent=RECENT):
    x, scale = double(layer), layer.query.shape[-1] ** -0.5
    return reference.attend_step(x.query, x.cache, x.summary, x.rule, sink, recent, scale, x.outliers)


def assert_exact(layer: Layer, **options):
    decided = by_kernels(layer, **options)
    options.pop("cache", None)
    options.pop("programs", None)
    true = by_reference(layer, **options)
    wrong = decided.long != true.long
    if wrong.any():  # the same, if the threshold is a little lower or higher
        lower, higher = (
            by_reference(replace(layer, rule=replace(layer.rule, threshold=layer.rule.threshold + by)), **options).long
            for by in (-UNDECIDED, UNDECIDED)
        )
        assert (lower != higher)[wrong].all()
        forced = torch.where(decided.long, torch.inf, -torch.inf)
        true = by_reference(replace(layer, rule=replace(layer.rule, threshold=forced)), **options)
    torch.testing.assert_close(decided.output.double(), true.output, **rounding(layer.query.dtype))


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([1, 2]), st.sampled_from([1, 3, 4, 16]), st.sampled_from([16, 64, 80, 128]),
    st.lists(st.integers(1, 400), min_size=1, max_size=3), st.integers(1, 20), st.sampled_from([0, 7, 70]),
    st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99), st.integers(0, 9), st.integers(1, 90),
)  # fmt: skip
def test_decoding_equals_the_float64_reference(
    device, dtype, kv_heads, group, dim, lengths, clusters, outliers, full, lost, by_group, seed, sink, recent
) -> None:
    rule = {"lost_output": lost, "by_group": by_group}
    layer = drawn(device, dtype, kv_heads, group, dim, lengths, clusters, outliers, full, seed, **rule)
    assert_exact(layer, sink=sink, recent=recent)


@pytest.mark.parametrize("threshold", [-torch.inf, torch.inf])
@pytest.mark.parametrize("programs", [1, 5, 64])
def test_all_heads_may_be_local_or_all_long(device, dtype, threshold, programs) -> None:
    layer = drawn(device, dtype, lengths=(300, 90, 24, 170), outliers=0)
    layer.rule.threshold.fill_(threshold)
    assert_exact(layer, programs=programs)
    long = by_kernels(layer).long
    assert long[[0, 1, 3]].all() if threshold > 0 else not long.any()


def test_one_long_head_alone_is_shared_by_all_programs(device, dtype) -> None:
    layer = drawn(device, dtype, lengths=(999, 300))
    layer.rule.threshold.fill_(-torch.inf)
    layer.rule.threshold[0, 4] = torch.inf
    assert_exact(layer, programs=16)
    assert by_kernels(layer).long.sum() == 1


@pytest.mark.parametrize(("dim", "outliers"), [(64, 0), (128, 70), (256, 7)])
def test_a_window_may_be_longer_than_a_tile(device, dtype, dim, outliers) -> None:
    layer = drawn(device, dtype, dim=dim, lengths=(700, 310, 90), outliers=outliers, full=True)
    assert_exact(layer, sink=30, recent=290)


def test_many_groups_are_merged_as_few_are(device, dtype) -> None:
    layer = drawn(device, dtype, lengths=[60 + 7 * b for b in range(17)], outliers=0)
    from headscope.kernels.decode.attend import merge_tiling

    assert merge_tiling(17 * 2) != merge_tiling(2)
    assert_exact(layer)


def test_strides_that_the_kernels_do_not_read_are_refused(device, dtype) -> None:
    layer = drawn(device, dtype)
    values = layer.cache.values.transpose(1, 2).contiguous().transpose(1, 2)
    with pytest.raises(ShapeError, match="same strides"):
        by_kernels(layer, cache=replace(layer.cache, values=values))
    with pytest.raises(ShapeError, match="contiguous"):
        by_kernels(replace(layer, rule=replace(layer.rule, threshold=layer.rule.threshold[:1].expand(2, -1))))


@pytest.mark.parametrize("page", [16, 48])
def test_pages_change_nothing(device, dtype, page) -> None:
    layer = drawn(device, dtype, lengths=(300, 33, 120))
    plain, paged = by_kernels(layer), by_kernels(layer, cache=in_pages(layer.cache, page))
    assert torch.equal(plain.long, paged.long)
    assert torch.equal(plain.output, paged.output)


def test_keys_may_be_a_view_of_a_larger_cache(device, dtype) -> None:
    layer = drawn(device, dtype)
    keys, values = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (layer.cache.keys, layer.cache.values))
    cache = replace(layer.cache, keys=keys, values=values)
    assert torch.equal(by_kernels(layer).output, by_kernels(layer, cache=cache).output)


@pytest.mark.parametrize("part", ["keys", "covariance"])
def test_a_margin_that_is_nan_reads_the_bulk(device, dtype, part) -> None:
    layer = drawn(device, dtype, lengths=(200,), outliers=0, threshold=torch.full((1, 6), -9.0, device=device))
    assert not by_kernels(layer).long.all()
    getattr(layer.summary, part)[0, 0].view(-1)[3] = torch.nan
    decided = by_kernels(layer)
    assert decided.long[0, :3].all() and torch.isfinite(decided.output).all()
    torch.testing.assert_close(decided.output.double(), by_reference(layer).output, **rounding(dtype))


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("group", [2, 5])  # powers of two and others; the test above draws more
def test_heads_of_a_group_have_one_label(device, dtype, group, lost) -> None:
    layer = drawn(device, dtype, group=group, lengths=(300, 90, 24), outliers=0, lost_output=lost, by_group=True)
    for threshold in (-1.0, 0.0, 1.0):
        layer.rule.threshold.fill_(threshold)
        labels = by_kernels(layer).long.view(3, 2, group)
        assert torch.equal(labels.all(2), labels.any(2)) and not labels[2].any()
        assert_exact(layer)


def test_the_largest_threshold_of_a_group_counts(device, dtype) -> None:
    layer = drawn(device, dtype, lengths=(300,), outliers=0, by_group=True)
    layer.rule.threshold.fill_(-torch.inf)
    layer.rule.threshold[0, 4] = torch.inf
    assert by_kernels(layer).long.tolist() == by_reference(layer).long.tolist() == [[False] * 3 + [True] * 3]


@pytest.mark.parametrize("lost", [False, True])
def test_one_head_without_a_margin_makes_its_group_long(device, dtype, lost) -> None:
    layer = drawn(device, dtype, lengths=(200,), outliers=0, lost_output=lost, by_group=True)
    layer.rule.threshold.fill_(-torch.inf)
    layer.rule.slope[1] = torch.nan
    assert by_kernels(layer).long.tolist() == by_reference(layer).long.tolist() == [[True] * 3 + [False] * 3]


ESTIMATORS = [
    Gaussian("full"),
    Gaussian("diagonal", "diagonal"),
    Clusters("many", 6, "diagonal"),
    Clusters("few", 3),
]


def margin_of(criterion, query, cache, summary) -> torch.Tensor:
    """The library's own margin of one query [H, D], [H]."""
    keys, values = (x.repeat_interleave(len(query) // len(x), 0) for x in (cache.keys, cache.values))
    position, window = torch.arange(keys.shape[1], device=keys.device), Window(SINK, RECENT)
    scores = torch.einsum("hd,htd->ht", query, keys) * cache.scale
    scores = scores.masked_fill(~window.local(position[-1:], position), -torch.inf)[None, :, None]
    kv_heads, name = len(cache.keys), criterion.estimator.name
    view = LayerView(
        0,
        cache.scale,
        kv_heads,
        scores.logsumexp(-1),
        scores.softmax(-1) @ values[None],
        window.bulk_size(position[-1:]),
        Summaries(0, {name: summary}),
        exact_mass=pytest.fail,
        exact_output=pytest.fail,
    )
    return criterion.map.apply(0, criterion.margin(query[None, :, None], view))[0, :, 0]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)
@pytest.mark.parametrize("kind", [Qada, LostOutput])
def test_labels_are_those_of_the_criteria(device, dtype, estimator, kind) -> None:
    layer = drawn(device, dtype, lengths=(300, 160, 21), outliers=0, lost_output=kind is LostOutput)
    rows = [sequence_keys_and_values(layer.cache, b) for b in range(3)]
    caches = [LayerCache(0, keys.double(), values.double(), 1 / 8) for keys, values in rows]
    asked = [Window(SINK, RECENT).summarised(cache.keys.shape[1]) for cache in caches]
    summaries = [estimator.summarise(Bulk.between(c, *between)) for c, between in zip(caches, asked, strict=True)]
    line = LayerMap(layer.rule.slope.double(), layer.rule.offset.double())
    criterion = kind(torch.zeros(1), estimator, MarginMap({0: line}))
    layer = replace(layer, summary=bulk_summary(criterion, summaries, dtype))
    each = zip(layer.query.double(), caches, summaries, strict=True)
    margin = torch.stack([margin_of(criterion, *one) for one in each])
    for shift in (-1.0, 0.0, 1.0):
        layer.rule.threshold.fill_(float(margin[~margin.isinf()].mean()) + shift)
        near = (margin - layer.rule.threshold).abs() < UNDECIDED
        assert ((by_kernels(layer).long == ~(margin >= layer.rule.threshold)) | near).all()
    assert not margin[:2].isinf().any() and margin[2].isinf().all()
