"""Straight lines of each head's margin."""

import json

import numpy as np
import pytest
import torch

from headscope.heads.calibration.maps import LayerMap, MarginMap, energy_map

RANDOM = np.random.default_rng(0)
SLOPE, OFFSET = torch.tensor([1.0, -0.5, 0.0]).double(), torch.tensor([2.0, 0.0, 3.0]).double()
LINES = MarginMap({4: LayerMap(SLOPE, OFFSET)})
MARGIN = torch.from_numpy(RANDOM.normal(size=(2, 3, 40)) * 3).float()


def test_every_head_has_a_line_of_its_own() -> None:
    expected = MARGIN.double() * torch.tensor([[1.0], [-0.5], [0.0]]) + torch.tensor([[2.0], [0.0], [3.0]])
    calibrated = LINES.apply(4, MARGIN)
    assert calibrated.dtype == torch.float64
    torch.testing.assert_close(calibrated, expected)


def test_no_bulk_stays_certain_and_an_undecided_pair_undecided() -> None:
    calibrated = LINES.apply(4, torch.tensor([torch.inf, -torch.inf, torch.nan]).expand(1, 3, 3))
    assert calibrated[0, :, 0].tolist() == [torch.inf] * 3 and calibrated[0, :, 1].tolist() == [-torch.inf] * 3
    assert calibrated[0, :, 2].isnan().all()


def test_calibration_json_holds_a_map_whole() -> None:
    again = MarginMap.of({"map": json.loads(json.dumps(LINES.plain()))})
    assert torch.equal(again.apply(4, MARGIN), LINES.apply(4, MARGIN))


def test_without_a_map_margins_stay_and_a_layer_without_one_is_an_error() -> None:
    assert MarginMap.of({"threshold": 0.0}).apply(7, MARGIN) is MARGIN
    with pytest.raises(KeyError):
        LINES.apply(7, MARGIN)


def test_energies_match_and_rare_large_losses_count() -> None:
    rng = np.random.default_rng(0)
    layers = np.repeat([2, 5], 400)
    truth = rng.normal(-6, 1, (800, 3))
    truth[::100, 1] = 0.0  # a head that is needed rarely and then much
    predicted = truth + np.array([1.0, 0.0, -2.0])
    predicted[np.arange(800) % 100 != 0, 1] += 3.0  # too high wherever it does not matter
    lines = energy_map([-predicted], [-truth], [layers]).layers
    assert list(lines) == [2, 5] and all((line.slope == 1).all() for line in lines.values())
    weights = -np.stack([line.offset for line in lines.values()])
    np.testing.assert_allclose(weights[:, [0, 2]], [[-1, 2]] * 2)
    assert (np.abs(weights[:, 1]) < 0.6).all()  # the mean of logs would take nearly 3 away


def test_a_head_that_never_loses_keeps_its_weight() -> None:
    lost, predicted = np.full((4, 2), -np.inf), np.array([[0.0, np.nan]] * 4)
    [line] = energy_map([-predicted], [-lost], [np.zeros(4, int)]).layers.values()
    assert line.offset.tolist() == [0.0, 0.0]


def test_right_margins_stay() -> None:
    exact = [RANDOM.normal(1, 2, (2 * size, 3)) for size in (40, 90)]
    lines = energy_map(exact, exact, [np.repeat([2, 5], size) for size in (40, 90)])
    torch.testing.assert_close(lines.apply(5, MARGIN), MARGIN.double())
