"""Straight lines of each head's margin."""

import json

import numpy as np
import pytest
import torch

from headscope.heads.calibration.maps import LayerMap, MarginMap

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
