from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from headscope.errors import ConfigError
from headscope.heads.boundary_state import Summaries
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import Criterion, build
from headscope.heads.decision import GROUP, deciding_margin, is_long
from headscope.heads.estimators import build as build_estimator
from headscope.heads.reading import Reading
from headscope.heads.view import LayerView

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


class Exact:
    """Exact attention over the bulk, which remembers that it was looked at."""

    def __init__(self, mass: Tensor, output: Tensor):
        self._mass, self._output, self.read = mass, output, False

    def mass(self) -> Tensor:
        self.read = True
        return self._mass

    def output(self) -> Tensor:
        self.read = True
        return self._output


def looked_at(layer: int = 3, rows: slice = slice(None), mass: float = 0.0) -> tuple[LayerView, Exact]:
    """What a criterion may look at, and whether it looked at the bulk."""
    estimator = build_estimator(GAUSSIAN, {})
    summary = estimator.summarise(Bulk.between(LayerCache(layer, KEYS, KEYS), 4, 30))
    window = torch.linspace(-2, 2, 24).view(2, 4, 3)
    outputs = torch.randn(2, 2, 4, 3, 8, generator=torch.Generator().manual_seed(2))
    exact = Exact(torch.full((2, 4, 3), mass)[rows], outputs[1][rows])
    summaries = Summaries(0, {"g": summary})
    outside = torch.tensor([26, 27, 28])
    found = LayerView(layer, 0.35, 2, window[rows], outputs[0][rows], outside, summaries, exact.mass, exact.output)
    return found, exact


def view(layer: int = 3) -> LayerView:
    return looked_at(layer)[0]


KINDS = ["dense", "local", "oracle", "oracle_output", "static", "qada", "lost_output"]
READING = {"oracle", "oracle_output"}


def criterion(kind: str, targets=TARGETS, **options):
    if kind == "static":
        return build({"kind": kind, **options}, RANKING, None)
    estimator = build_estimator(GAUSSIAN, {}) if kind in ("qada", "lost_output") else None
    return build({"kind": kind, **options}, targets, estimator)


def decide(criterion: Criterion, query: Tensor, view: LayerView) -> Tensor:
    return is_long(deciding_margin(criterion, query, view), criterion.thresholds)


def labels(kind: str, seen: LayerView) -> Tensor:
    return decide(criterion(kind), QUERY, seen)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_have_the_shape_of_the_queries(kind: str) -> None:
    long = labels(kind, view())
    assert long.shape == (2, 4, 3) and long.dtype == torch.bool


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_oracles_read_the_bulk(kind: str) -> None:
    seen, exact = looked_at()
    labels(kind, seen)
    assert exact.read is (kind in READING)


@pytest.mark.parametrize("unit", ["head", "group"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_gets_the_labels_it_gets_among_others(kind: str, unit: str) -> None:
    together, alone = criterion(kind, unit=unit), criterion(kind, unit=unit).take(torch.tensor([1]))
    one, _ = looked_at(rows=slice(1, 2))
    assert torch.equal(decide(alone, QUERY[1:], one), decide(together, QUERY, view())[1:])


def test_the_dense_criterion_reads_everything_and_the_local_one_nothing() -> None:
    assert labels("dense", view()).all() and not labels("local", view()).any()


def test_the_oracle_calls_local_what_reaches_its_threshold() -> None:
    seen = view()
    long = labels("oracle", seen)
    assert torch.equal(long[0], seen.window_mass[0] < 0.5) and torch.equal(long[1], seen.window_mass[1] < -2.0)


def test_static_labels_are_those_of_the_layer_for_every_query() -> None:
    long = labels("static", view(layer=1))
    assert long[0, :, 0].tolist() == [True, False, False, True] and (long == long[:, :, :1]).all() and not long[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_with_unit_group_all_heads_of_a_group_have_one_label(kind: str) -> None:
    reading = Reading.of(decide(criterion(kind, unit=GROUP), QUERY, view()), 2)
    by_group = reading.heads.view(2, 2, 2, 3)
    assert torch.equal(by_group[:, :, 0], by_group[:, :, 1]) and torch.equal(by_group[:, :, 0], reading.groups)


@pytest.mark.parametrize("kind", ["oracle", "oracle_output", "qada", "lost_output"])
def test_a_query_that_is_not_a_number_reads_the_bulk(kind: str) -> None:
    seen = view()
    mass = seen.window_mass.clone()
    mass[0, 1, 2] = torch.nan
    assert labels(kind, replace(seen, window_mass=mass))[0, 1, 2]


@pytest.mark.parametrize("exact", [True, False])
def test_lost_output_is_the_norm_of_the_difference_to_the_whole_output(exact: bool) -> None:
    seen, _ = looked_at()
    loses = criterion("oracle_output" if exact else "lost_output")
    window, bulk, mass = seen.window_output, seen.exact_output(), seen.exact_mass()
    if not exact:
        summary = seen.summaries.of["g"]
        mass, bulk = loses.estimator.mass_and_value(QUERY, summary, seen.outside, seen.scale)
    share = mass.exp() / (mass.exp() + seen.window_mass.exp())
    whole = (1 - share)[..., None] * window + share[..., None] * bulk
    expected = -(whole - window).norm(dim=-1).log()
    torch.testing.assert_close(loses.margin(QUERY, seen), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(decide(loses, QUERY, seen)[0], loses.margin(QUERY, seen)[0] < 0.5)


@pytest.mark.parametrize("kind", ["qada", "lost_output", "oracle_output"])
def test_the_threshold_is_compared_with_the_margin_that_its_heads_map_calibrates(kind: str) -> None:
    plain, mapped, seen = criterion(kind), criterion(kind, MAPPED), view()
    slope, offset = (torch.tensor(MAP[name][1])[:, None] for name in ("slope", "offset"))
    expected = plain.margin(QUERY, seen) * slope + offset
    assert torch.equal(decide(mapped, QUERY, seen), expected < torch.tensor([0.5, -2.0])[:, None, None])
    alone = mapped.take(torch.tensor([1]))
    assert alone.map is mapped.map and alone.thresholds.tolist() == [-2.0]


def test_an_estimator_that_knows_no_values_is_refused_for_lost_output() -> None:
    of_masses_alone = SimpleNamespace(**dict.fromkeys(("name", "summarise", "update", "log_mass", "numbers")))
    for estimator in (None, of_masses_alone):
        with pytest.raises(ConfigError, match="needs an `estimator` that knows the bulk's values"):
            build({"kind": "lost_output"}, TARGETS, estimator)


def test_qada_without_an_estimator_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an `estimator`"):
        build({"kind": "qada"}, TARGETS, None)


@pytest.mark.parametrize("kind", sorted(READING))
def test_an_empty_bulk_is_local_whatever_the_threshold(kind: str) -> None:
    assert not labels(kind, looked_at(mass=-torch.inf)[0]).any()
