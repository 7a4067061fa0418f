"""Fits of each head's margins; two layers, three heads, prompts of different lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.calibration.fits import FITS, KNOTS, RIDGE, fit, monotone
from headscope.heads.calibration.thresholds import energy_weights

SLOPES, OFFSETS = np.array([0.5, 1.0, 3.0]), np.array([-2.0, 0.0, 4.0])
LOCAL = 1.0


def drawn(seed: int = 0, sizes=(40, 90)) -> tuple[list, list]:
    """Exact margins of each prompt, [N, 3], and their layers, 2 and 5."""
    random = np.random.default_rng(seed)
    return [random.normal(1, 2, (2 * size, 3)) for size in sizes], [np.repeat([2, 5], size) for size in sizes]


def applied(found, margins, layers) -> list[np.ndarray]:
    parts = []
    for margin, rows in zip(margins, layers, strict=True):
        out = np.empty(margin.shape)
        for layer in np.unique(rows):
            out[rows == layer] = found.apply(int(layer), torch.from_numpy(margin[rows == layer].T)[None])[0].T
        parts.append(out)
    return parts


def test_an_offset_and_a_slope_are_found_again() -> None:
    exact, layers = drawn()
    shifted, bent = [e - OFFSETS for e in exact], [(e - OFFSETS) / SLOPES for e in exact]
    for name, margins in (("offset", shifted), ("slope", bent)):
        for got, wanted in zip(applied(fit(name, margins, exact, layers, LOCAL), margins, layers), exact, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-9)


@pytest.mark.parametrize("name", ["none", "offset", "slope"])
def test_right_margins_stay(name: str) -> None:
    exact, layers = drawn()
    for got, wanted in zip(applied(fit(name, exact, exact, layers, LOCAL), exact, layers), exact, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_right_margins_stay_between_the_ends_of_an_isotonic_map() -> None:
    exact, layers = drawn()
    found = fit("isotonic", exact, exact, layers, LOCAL)
    for got, wanted, rows in zip(applied(found, exact, layers), exact, layers, strict=True):
        ends = np.stack([found.layers[x].knots[:, [0, -1]].numpy() for x in rows.tolist()])
        np.testing.assert_allclose(got, np.clip(wanted, ends[..., 0], ends[..., 1]), atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_an_isotonic_map_never_falls_and_has_few_knots(seed: int, size: int) -> None:
    exact, layers = drawn(seed, (size, size + 3))
    margins = [e + np.random.default_rng(seed).normal(0, 3, e.shape) for e in exact]
    for found in fit("isotonic", margins, exact, layers, LOCAL).layers.values():
        assert found.knots.shape == found.values.shape == (3, KNOTS)
        assert (found.knots.diff(dim=1) >= 0).all() and (found.values.diff(dim=1) >= -1e-12).all()
        assert (found.slope == 0).all()


def test_an_isotonic_map_is_exact_on_few_monotone_pairs() -> None:
    margin = np.sort(np.random.default_rng(1).normal(size=(KNOTS, 2)), axis=0)
    exact, layers = margin**3, [np.zeros(KNOTS, int)]
    [got] = applied(fit("isotonic", [margin], [exact], layers, LOCAL), [margin], layers)
    np.testing.assert_allclose(got, exact, atol=1e-12)


def pooled(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pool adjacent violators, as in the textbooks."""
    blocks = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, v, i), (b, w, j) = blocks[-2:]
            blocks[-2:] = [[(a * v + b * w) / (v + w), v + w, i + j]]
    return np.concatenate([[value] * count for value, _, count in blocks])


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_monotone_regression_is_that_of_pooled_violators(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    values, weights = random.normal(size=size), random.uniform(0.1, 5, size)
    np.testing.assert_allclose(monotone(values, weights), pooled(values, weights), atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.1, 20))
def test_a_logistic_fit_is_where_the_penalised_likelihood_is_flat(seed: int, scale: float) -> None:
    exact, layers = drawn(seed, (60,))
    margins = [e * scale + np.random.default_rng(seed).normal(0, 1 + scale, e.shape) for e in exact]
    found = fit("logistic", margins, exact, layers, LOCAL)
    for layer, line in found.layers.items():
        margin, local = margins[0][layers[0] == layer], exact[0][layers[0] == layer] >= LOCAL
        mean, spread = margin.mean(0), margin.std(0)
        slope, offset = line.slope.numpy(), line.values[:, 0].numpy()
        error = 1 / (1 + np.exp(-(margin * slope + offset))) - local
        np.testing.assert_allclose(error.sum(0) + RIDGE * (offset + slope * mean), 0, atol=1e-6)
        standard = (margin - mean) / spread
        np.testing.assert_allclose((error * standard).sum(0) + RIDGE * slope * spread, 0, atol=1e-6)


def test_a_head_with_one_label_or_separable_ones_stays_finite() -> None:
    exact, layers = drawn()
    exact = [np.column_stack([np.full(len(e), 9.0), np.full(len(e), -9.0), e[:, 2]]) for e in exact]
    margins = [e + np.random.default_rng(0).normal(size=e.shape) * [1, 1, 0] for e in exact]
    for line in fit("logistic", margins, exact, layers, LOCAL).layers.values():
        assert line.values.isfinite().all() and (line.slope.abs() < 100).all()
    local, long, _ = np.concatenate(applied(fit("logistic", margins, exact, layers, LOCAL), margins, layers)).T
    assert (local > 2).all() and (long < -2).all()


@pytest.mark.parametrize("name", FITS)
def test_pairs_that_are_not_finite_count_for_nothing_and_a_head_of_them_stays(name: str) -> None:
    exact, layers = drawn()
    margins = [(e - OFFSETS) / SLOPES for e in exact]
    spoiled = [np.concatenate([m, [[np.inf, np.nan, -np.inf]] * 2]) for m in margins]
    more = [np.concatenate([e, [[1.0, 2.0, np.inf]] * 2]) for e in exact]
    rows = [np.concatenate([x, [2, 5]]) for x in layers]
    before, after = fit(name, margins, exact, layers, LOCAL), fit(name, spoiled, more, rows, LOCAL)
    if name != "isotonic":  # bins move a little with the prompts' weights
        for one, other in zip(applied(before, margins, layers), applied(after, margins, layers), strict=True):
            np.testing.assert_allclose(one, other, atol=0.05)
    empty = [np.column_stack([m[:, :2], np.full(len(m), np.nan)]) for m in margins]
    found = fit(name, empty, exact, layers, LOCAL)
    for got, margin in zip(applied(found, margins, layers), margins, strict=True):
        np.testing.assert_allclose(got[:, 2], margin[:, 2])


@pytest.mark.parametrize("name", ["offset", "slope"])
def test_every_prompt_weighs_the_same(name: str) -> None:
    exact, layers = drawn()
    margins = [e + 3.0 * i + np.sin(5 * e) for i, e in enumerate(exact)]
    once = fit(name, margins, exact, layers, LOCAL)
    again = [[np.tile(part[0], (2, 1)), part[1]] for part in (margins, exact)]
    twice = fit(name, *again, [np.tile(layers[0], 2), layers[1]], LOCAL)
    for one, other in zip(applied(once, margins, layers), applied(twice, margins, layers), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_energy_weighs_each_head() -> None:
    exact, layers = drawn()
    margins = [e + OFFSETS for e in exact]
    found = fit("energy", margins, exact, layers, LOCAL)
    indices, weights = energy_weights([-e for e in exact], [-m for m in margins], layers)
    assert list(found.layers) == indices
    for line, log in zip(found.layers.values(), weights, strict=True):
        np.testing.assert_allclose(line.values[:, 0], -log)
        np.testing.assert_allclose(log, OFFSETS, atol=1e-9)
