import pytest
import torch

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import LayerView, build, share_below
from headscope.heads.estimators import build as build_estimator

QUERY = torch.randn(2, 4, 3, 8, generator=torch.Generator().manual_seed(0))
TARGETS = [{"threshold": 0.5}, {"threshold": -2.0}]
RANKING = [{"layers": [1, 3], "long": [[1, 0, 0, 1], [0, 0, 1, 1]]}, {"layers": [1, 3], "long": [[0] * 4, [1] * 4]}]
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "capped": False, "moments": "prompt"}


def view(layer: int = 3) -> LayerView:
    estimator = build_estimator(GAUSSIAN, {})
    keys = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
    summary = estimator.summarise(Bulk.between(LayerCache(layer, keys, keys), 4, 30))
    window = torch.linspace(-2, 2, 24).view(2, 4, 3)
    return LayerView(layer, 0.35, window, torch.tensor([26, 27, 28]), {"g": summary}, lambda: torch.zeros(2, 4, 3))


def criterion(kind: str):
    if kind == "static":
        return build({"kind": kind}, RANKING, None)
    return build({"kind": kind}, TARGETS, build_estimator(GAUSSIAN, {}) if kind == "qada" else None)


@pytest.mark.parametrize("kind", ["dense", "local", "oracle", "static", "qada"])
def test_labels_have_the_shape_of_the_queries(kind: str) -> None:
    long = criterion(kind).select(QUERY, view()).long
    assert long.shape == (2, 4, 3) and long.dtype == torch.bool


@pytest.mark.parametrize(("kind", "peeks"), [("local", False), ("static", False), ("qada", False), ("oracle", True)])
def test_only_the_oracle_reads_exact_bulk_masses(kind: str, peeks: bool) -> None:
    seen = view()
    criterion(kind).select(QUERY, seen)
    assert seen.peeked is peeks


@pytest.mark.parametrize("kind", ["dense", "local", "oracle", "static", "qada"])
def test_a_row_alone_gets_the_labels_it_gets_among_others(kind: str) -> None:
    together, full = criterion(kind), view()
    one = view()
    one.window_mass, one.exact = full.window_mass[1:], lambda: torch.zeros(1, 4, 3)
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
    nan = torch.full((1, 1, 1), torch.nan)
    assert share_below(nan, torch.zeros(1, 1, 1), torch.tensor([0.0])).all()


def test_an_empty_bulk_is_local_whatever_the_threshold() -> None:
    local, bulk = torch.zeros(1, 2, 1), torch.full((1, 2, 1), -torch.inf)
    assert not share_below(local, bulk, torch.tensor([1e9])).any()


def test_qada_without_an_estimator_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs `estimator`"):
        build({"kind": "qada"}, TARGETS, None)
