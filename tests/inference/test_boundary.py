"""What a boundary leaves does not depend on which layers and rows are taken together."""

from dataclasses import fields, replace

import pytest
import torch
from adaptive_cases import at, calibrated, small

from headscope import Window
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.outliers import importance
from headscope.inference import boundary
from headscope.inference.boundary import MULTIPLE, Batch, boundary_states

RECIPES = ["lost_output", "lost_output_even", "lost_output_gaussian", "qada"]
SPANS, TOKENS, LAYERS, KV_HEADS, DIM = [(0, 150), (61, 150), (140, 150)], 160, 3, 2, 8


def caches(dtype: torch.dtype = torch.float32) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Random ones of three rows; heads differ in how large their values are, so that they share unevenly."""
    generator = torch.Generator().manual_seed(4)
    shape = LAYERS, 2, len(SPANS), KV_HEADS, TOKENS, DIM
    found = torch.randn(shape, generator=generator)
    found[:, 1] *= torch.rand(LAYERS, 1, KV_HEADS, 1, 1, generator=generator) ** 4
    return {layer: (keys.to(dtype), values.to(dtype)) for layer, (keys, values) in enumerate(found)}


def made(criterion, given, rows=(0, 1, 2)):
    """The states of some of the rows."""
    some = {layer: tuple(x[list(rows)] for x in pair) for layer, pair in given.items()}
    spans = [SPANS[row] for row in rows]
    built = at(criterion, 0.1).built()
    return boundary_states(Batch(small(), criterion, built, some, spans, [last - first for first, last in spans]))


def same(found, expected, row: slice | int = slice(None)) -> None:
    """Every number is the same up to rounding; outliers and clusters that a row does not have are zero."""
    for layer in found:
        for part in ("summary", "means", "outliers"):
            one, other = getattr(found[layer], part), getattr(expected[layer], part)
            assert one is not None or other is None
            for name in [] if other is None else [field.name for field in fields(other)]:
                left, right = getattr(one, name)[row], getattr(other, name)
                assert left.is_contiguous() or row != slice(None)
                for dim in range(2, right.ndim):
                    assert not left.narrow(dim, right.shape[dim], left.shape[dim] - right.shape[dim]).any()
                    left = left.narrow(dim, 0, right.shape[dim])
                torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outliers", [6, 60])
@pytest.mark.parametrize("recipe", RECIPES)
def test_layers_together_are_layers_alone(recipe: str, outliers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = calibrated(small(), recipe, **({} if recipe == "qada" else {"outliers": outliers}))
    together = made(criterion, caches())
    if recipe != "qada":
        counts = torch.stack([state.outliers.count for state in together.values()])
        means = counts.double().mean((0, 2)).tolist()
        assert means == [min(outliers, 130), min(outliers, 69), 0]  # the last row has no bulk
        assert (len(counts[:, 0].unique()) > 1) == (recipe == "lost_output")
        for state in together.values():
            assert state.outliers.keys.shape[2] == -(-int(state.outliers.count.max()) // MULTIPLE) * MULTIPLE
    monkeypatch.setattr(boundary, "MAX_NUMBERS", 1)
    same(made(criterion, caches()), together)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_row_in_a_batch_is_the_row_alone(recipe: str) -> None:
    criterion = calibrated(small(), recipe)
    together = made(criterion, caches())
    for row in range(len(SPANS)):
        same(together, made(criterion, caches(), [row]), slice(row, row + 1))


@pytest.mark.parametrize("recipe", ["lost_output_even", "lost_output_gaussian", "qada"])
def test_what_is_not_a_number_stays_in_its_layer_and_head(recipe: str) -> None:
    criterion, given = calibrated(small(), recipe), caches()
    expected = made(criterion, given)
    given[1][0][0, 1, 70] = torch.nan
    found = made(criterion, given)
    assert found[1].summary.covariance[0, 1].isnan().any()
    for state, before in ((found[1].summary, expected[1].summary), (found[2].summary, expected[2].summary)):
        assert torch.equal(state.covariance[0, 0], before.covariance[0, 0])
        assert torch.equal(state.keys[1:], before.keys[1:])
    assert torch.equal(found[0].summary.keys, expected[0].summary.keys)


def test_a_layers_outliers_keep_no_other_layers_alive() -> None:
    for state in made(calibrated(small(), outliers=60), caches()).values():
        for held in (state.outliers.keys, state.outliers.values):
            assert held.is_contiguous() and held.untyped_storage().nbytes() == held.nbytes


def test_a_window_over_all_leaves_no_bulk_and_one_key_stands_for_it() -> None:
    criterion = replace(calibrated(small()), window=Window(sink=100, recent=60))
    for state in made(criterion, caches()).values():
        assert state.outliers is None and (state.summary.size.sum(2) > 0).all() and not state.summary.keys.any()


def test_outliers_are_those_that_each_row_shares_among_all_of_its_layers() -> None:
    criterion, given = calibrated(small()), caches()
    shared = replace(criterion.recipe.outliers, bits=16)
    found = made(replace(criterion, recipe=replace(criterion.recipe, outliers=shared)), given)
    for row, (first, last) in enumerate(SPANS[:2]):
        importances = {}
        for layer, (keys, values) in given.items():
            probes = criterion.probes.at(small(), layer, last - first)
            cache = LayerCache(layer, keys[row, :, first:last], values[row, :, first:last], DIM**-0.5, probes)
            bulk = Bulk.between(cache, 4, last - first - 16)
            for head, of_head in enumerate(importance(shared.rule, bulk).tolist()):
                importances |= {(layer, head, first + 4 + j): value for j, value in enumerate(of_head)}
        order = sorted(importances, key=importances.__getitem__, reverse=True)
        chosen = {key for at in range(LAYERS * KV_HEADS) for key in [k for k in order if k[:2] == divmod(at, 2)][:3]}
        chosen |= set([key for key in order if key not in chosen][: 3 * LAYERS * KV_HEADS])
        for layer in given:
            for head in range(KV_HEADS):
                held = sorted(j for at, of, j in chosen if (at, of) == (layer, head))
                state = found[layer].outliers
                assert int(state.count[row, head]) == len(held)
                assert torch.equal(state.keys[row, head, : len(held)], given[layer][0][row, head, held])
                assert not state.values[row, head, len(held) :].any()
