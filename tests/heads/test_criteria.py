from types import SimpleNamespace

import pytest
import torch

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import below, build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.view import LayerView, Summaries

QUERY = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
KEYS = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
MAP = {
    "layers": [1, 3],
    "slope": [[1.0] * 4, [1.0, 2.0, 0.5, 1.0]],
    "offset": [[0.0] * 4, [0.0, 0.5, -1.0, -2.0]],
}
TARGETS = [{"threshold": 0.5}, {"threshold": -2.0}]
MAPPED = [{**target, "map": MAP} for target in TARGETS]
RANKING = [{"layers": [1, 3], "long": [[1, 0, 0, 1], [0, 0, 1, 1]]}, {"layers": [1, 3], "long": [[0] * 4, [1] * 4]}]
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}


def view(layer: int = 3) -> LayerView:
    estimator = build_estimator(GAUSSIAN, {})
    summary = estimator.summarise(Bulk.between(LayerCache(layer, KEYS, KEYS), 4, 30))
    window = torch.linspace(-2, 2, 24).view(2, 4, 3)
    outputs = torch.randn(2, 2, 4, 3, 8, generator=torch.Generator().manual_seed(2))
    return LayerView(
        layer,
        0.35,
        torch.tensor([26, 27, 28]),
        [Summaries(slice(0, 4), 0, {"g": summary})],
        measure_window=lambda: window,
        attend_window=lambda: outputs[0],
        exact_mass=lambda: torch.zeros(2, 4, 3),
        exact_output=lambda: outputs[1],
    )


KINDS = ["dense", "local", "oracle", "oracle_output", "static", "qada", "lost_output"]
PEEKING = {"oracle", "oracle_output"}


def criterion(kind: str, targets=TARGETS):
    if kind == "static":
        return build({"kind": kind}, RANKING, None)
    return build({"kind": kind}, targets, build_estimator(GAUSSIAN, {}) if kind in ("qada", "lost_output") else None)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_have_the_shape_of_the_queries(kind: str) -> None:
    long = criterion(kind).select(QUERY, view()).long
    assert long.shape == (2, 4, 3) and long.dtype == torch.bool


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_oracles_read_the_bulk(kind: str) -> None:
    seen = view()
    criterion(kind).select(QUERY, seen)
    assert seen.peeked is (kind in PEEKING)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_gets_the_labels_it_gets_among_others(kind: str) -> None:
    together, full = criterion(kind), view()
    one = view()
    one.window_mass, one.exact_mass = full.window_mass[1:], lambda: torch.zeros(1, 4, 3)
    one.attend_window, one.exact_output = lambda: full.attend_window()[1:], lambda: full.exact_output()[1:]
    alone = together.take(torch.tensor([1])).select(QUERY[1:], one).long
    assert torch.equal(alone, together.select(QUERY, full).long[1:])


def test_the_oracle_calls_local_what_reaches_its_threshold() -> None:
    seen = view()
    long = criterion("oracle").select(QUERY, seen).long
    assert torch.equal(long[0], seen.window_mass[0] < 0.5) and torch.equal(long[1], seen.window_mass[1] < -2.0)


def test_static_labels_are_those_of_the_layer_for_every_query() -> None:
    long = criterion("static").select(QUERY, view(layer=1)).long
    assert long[0, :, 0].tolist() == [True, False, False, True] and (long == long[:, :, :1]).all() and not long[1].any()


def test_an_undecided_pair_reads_the_bulk() -> None:
    assert below(torch.full((1, 1, 1), torch.nan), torch.tensor([0.0])).all()


@pytest.mark.parametrize("kind", ["oracle", "oracle_output", "qada", "lost_output"])
def test_a_query_that_is_not_a_number_reads_the_bulk(kind: str) -> None:
    seen = view()
    seen.window_mass = seen.window_mass.clone()
    seen.window_mass[0, 1, 2] = torch.nan
    assert criterion(kind).select(QUERY, seen).long[0, 1, 2]


@pytest.mark.parametrize("exact", [True, False])
def test_lost_output_is_the_norm_of_the_difference_to_the_whole_output(exact: bool) -> None:
    seen = view()
    found = criterion("oracle_output" if exact else "lost_output")
    window, bulk, mass = seen.window_output(), seen.exact_output(), seen.exact_mass()
    if not exact:
        estimator = found.estimator
        (part,) = seen.summaries
        mass = estimator.log_mass(QUERY, part.of["g"], seen.outside, seen.scale)
        bulk = estimator.value(QUERY, part.of["g"], seen.scale)
    share = mass.exp() / (mass.exp() + seen.window_mass.exp())
    whole = (1 - share)[..., None] * window + share[..., None] * bulk
    expected = -(whole - window).norm(dim=-1).log()
    torch.testing.assert_close(found.margin(QUERY, seen), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.select(QUERY, seen).long[0], found.margin(QUERY, seen)[0] < 0.5)


@pytest.mark.parametrize("kind", ["qada", "lost_output", "oracle_output"])
def test_the_threshold_is_compared_with_the_margin_that_its_heads_map_calibrates(kind: str) -> None:
    plain, mapped, seen = criterion(kind), criterion(kind, MAPPED), view()
    slope, offset = (torch.tensor(MAP[name][1])[:, None] for name in ("slope", "offset"))
    expected = plain.margin(QUERY, seen) * slope + offset
    torch.testing.assert_close(mapped.margin(QUERY, seen), expected.double())
    assert torch.equal(mapped.select(QUERY, seen).long[1], expected[1] < -2.0)
    alone = mapped.take(torch.tensor([1]))
    assert alone.map is mapped.map and alone.thresholds.tolist() == [-2.0]


def test_an_estimator_that_knows_no_values_is_refused_for_lost_output() -> None:
    of_masses_alone = SimpleNamespace(**dict.fromkeys(("name", "summarise", "update", "log_mass")))
    for estimator in (None, of_masses_alone):
        with pytest.raises(ConfigError, match="estimator"):
            build({"kind": "lost_output"}, TARGETS, estimator)


def test_an_empty_bulk_is_local_whatever_the_threshold() -> None:
    for kind in PEEKING:
        seen = view()
        seen.exact_mass = lambda: torch.full((2, 4, 3), -torch.inf)
        assert not criterion(kind).select(QUERY, seen).long.any()


def test_qada_without_an_estimator_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs `estimator`"):
        build({"kind": "qada"}, TARGETS, None)
