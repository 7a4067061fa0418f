import json

import numpy as np
import pytest
import torch

from headscope.heads.calibration.maps import LayerMap, MarginMap, affine

RANDOM = np.random.default_rng(0)
KNOTS = np.sort(RANDOM.normal(size=(3, 5)), axis=1)
VALUES = RANDOM.normal(size=(3, 5))
SLOPE = np.array([0.0, 1.0, -2.0])
CURVES = MarginMap({4: LayerMap(*(torch.from_numpy(part) for part in (KNOTS, VALUES, SLOPE)))})
MARGIN = torch.from_numpy(RANDOM.normal(size=(2, 3, 40)) * 3).float()


def reference(margin: np.ndarray) -> np.ndarray:
    """By numpy's interpolation, head by head."""
    heads = []
    for head in range(3):
        m, x = margin[:, head], KNOTS[head]
        heads.append(np.interp(m, x, VALUES[head]) + SLOPE[head] * (m - np.clip(m, x[0], x[-1])))
    return np.stack(heads, axis=1)


def test_a_map_interpolates_each_heads_knots_and_goes_straight_on() -> None:
    found = CURVES.apply(4, MARGIN)
    assert found.dtype == torch.float64 and found.shape == MARGIN.shape
    np.testing.assert_allclose(found.numpy(), reference(MARGIN.double().numpy()), rtol=1e-12, atol=1e-12)


def test_knots_themselves_get_their_values() -> None:
    found = CURVES.apply(4, torch.from_numpy(KNOTS)[None])
    np.testing.assert_allclose(found[0].numpy(), VALUES, rtol=1e-12)


def test_repeated_last_knots_change_nothing() -> None:
    padded = [torch.from_numpy(np.pad(part, ((0, 0), (0, 3)), mode="edge")) for part in (KNOTS, VALUES)]
    more = MarginMap({4: LayerMap(*padded, torch.from_numpy(SLOPE))})
    torch.testing.assert_close(more.apply(4, MARGIN), CURVES.apply(4, MARGIN))


def test_a_line_has_one_knot() -> None:
    line = MarginMap({0: affine(torch.tensor([1.0, -0.5, 0.0]), torch.tensor([2.0, 0.0, 3.0]))})
    expected = MARGIN.double() * torch.tensor([[1.0], [-0.5], [0.0]]) + torch.tensor([[2.0], [0.0], [3.0]])
    torch.testing.assert_close(line.apply(0, MARGIN), expected)


def test_no_bulk_stays_certain_and_an_undecided_pair_undecided() -> None:
    found = CURVES.apply(4, torch.tensor([torch.inf, -torch.inf, torch.nan]).expand(1, 3, 3))
    assert found[0, :, 0].tolist() == [torch.inf] * 3 and found[0, :, 1].tolist() == [-torch.inf] * 3
    assert found[0, :, 2].isnan().all()


def test_calibration_json_holds_a_map_whole() -> None:
    again = MarginMap.of({"map": json.loads(json.dumps(CURVES.plain()))})
    assert torch.equal(again.apply(4, MARGIN), CURVES.apply(4, MARGIN))


def test_without_a_map_margins_stay_and_a_layer_without_one_is_an_error() -> None:
    assert MarginMap.of({"threshold": 0.0}).apply(7, MARGIN) is MARGIN
    with pytest.raises(KeyError):
        CURVES.apply(7, MARGIN)
