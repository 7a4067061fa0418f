"""Fits of each head's margins; two layers, three heads, prompts of different lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.heads.calibration.fits import RIDGE, fit
from headscope.heads.calibration.thresholds import energy_weights

SLOPES, OFFSETS = np.array([0.5, 1.0, 3.0]), np.array([-2.0, 0.0, 4.0])
LOCAL = 1.0


def drawn(seed: int = 0, sizes=(40, 90)) -> tuple[list, list]:
    """Exact margins of each prompt, [N, 3], and their layers, 2 and 5."""
    random = np.random.default_rng(seed)
    return [random.normal(1, 2, (2 * size, 3)) for size in sizes], [np.repeat([2, 5], size) for size in sizes]


def applied(fitted, margins, layers) -> list[np.ndarray]:
    parts = []
    for margin, rows in zip(margins, layers, strict=True):
        out = np.empty(margin.shape)
        for layer in np.unique(rows):
            out[rows == layer] = fitted.apply(int(layer), torch.from_numpy(margin[rows == layer].T)[None])[0].T
        parts.append(out)
    return parts


@pytest.mark.parametrize("name", ["none", "energy"])
def test_right_margins_stay(name: str) -> None:
    exact, layers = drawn()
    for got, wanted in zip(applied(fit(name, exact, exact, layers, LOCAL), exact, layers), exact, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.floats(0.1, 20))
def test_a_logistic_fit_is_where_the_penalised_likelihood_is_flat(seed: int, scale: float) -> None:
    exact, layers = drawn(seed, (60,))
    margins = [e * scale + np.random.default_rng(seed).normal(0, 1 + scale, e.shape) for e in exact]
    fitted = fit("logistic", margins, exact, layers, LOCAL)
    for layer, line in fitted.layers.items():
        margin, local = margins[0][layers[0] == layer], exact[0][layers[0] == layer] >= LOCAL
        mean, spread = margin.mean(0), margin.std(0)
        slope, offset = line.slope.numpy(), line.offset.numpy()
        error = 1 / (1 + np.exp(-(margin * slope + offset))) - local
        np.testing.assert_allclose(error.sum(0) + RIDGE * (offset + slope * mean), 0, atol=1e-6)
        standard = (margin - mean) / spread
        np.testing.assert_allclose((error * standard).sum(0) + RIDGE * slope * spread, 0, atol=1e-6)


def test_a_head_with_one_label_or_separable_ones_stays_finite() -> None:
    exact, layers = drawn()
    exact = [np.column_stack([np.full(len(e), 9.0), np.full(len(e), -9.0), e[:, 2]]) for e in exact]
    margins = [e + np.random.default_rng(0).normal(size=e.shape) * [1, 1, 0] for e in exact]
    fitted = fit("logistic", margins, exact, layers, LOCAL)
    for line in fitted.layers.values():
        assert line.offset.isfinite().all() and (line.slope.abs() < 100).all()
    local, long, _ = np.concatenate(applied(fitted, margins, layers)).T
    assert (local > 2).all() and (long < -2).all()


def test_pairs_that_are_not_finite_count_for_nothing_and_a_head_of_them_stays() -> None:
    exact, layers = drawn()
    margins = [(e - OFFSETS) / SLOPES for e in exact]
    spoiled = [np.concatenate([m, [[np.inf, np.nan, -np.inf]] * 2]) for m in margins]
    more = [np.concatenate([e, [[1.0, 2.0, np.inf]] * 2]) for e in exact]
    rows = [np.concatenate([x, [2, 5]]) for x in layers]
    before, after = fit("logistic", margins, exact, layers, LOCAL), fit("logistic", spoiled, more, rows, LOCAL)
    for one, other in zip(applied(before, margins, layers), applied(after, margins, layers), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05)
    empty = [np.column_stack([m[:, :2], np.full(len(m), np.nan)]) for m in margins]
    fitted = fit("logistic", empty, exact, layers, LOCAL)
    for got, margin in zip(applied(fitted, margins, layers), margins, strict=True):
        np.testing.assert_allclose(got[:, 2], margin[:, 2])


def test_every_prompt_weighs_the_same() -> None:
    exact, layers = drawn(sizes=(4000, 9000))  # so many that the penalty weighs nothing
    margins = [e + 3.0 * i + np.sin(5 * e) for i, e in enumerate(exact)]
    once = fit("logistic", margins, exact, layers, LOCAL)
    longer, more = ([np.tile(part[0], (2, 1)), part[1]] for part in (margins, exact))
    twice = fit("logistic", longer, more, [np.tile(layers[0], 2), layers[1]], LOCAL)
    for one, other in zip(applied(once, margins, layers), applied(twice, margins, layers), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)


def test_energy_weighs_each_head() -> None:
    exact, layers = drawn()
    margins = [e + OFFSETS for e in exact]
    fitted = fit("energy", margins, exact, layers, LOCAL)
    indices, weights = energy_weights([-e for e in exact], [-m for m in margins], layers)
    assert list(fitted.layers) == indices
    for line, log in zip(fitted.layers.values(), weights, strict=True):
        np.testing.assert_allclose(line.offset, -log)
        np.testing.assert_allclose(log, OFFSETS, atol=1e-9)
