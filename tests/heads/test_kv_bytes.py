"""Thresholds for a share of the KV bytes, against counting what each query reads."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.errors import ConfigError
from headscope.heads.calibration.kv_bytes import Costs, group_margin, threshold_for_bytes
from headscope.heads.calibration.rules import ShareOfBytes
from headscope.heads.decision import is_long
from headscope.heads.reading import Reading
from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts, Sizes

WINDOW, KV_HEADS, HEAD_DIM = Window(2, 6), 2, 4
COSTS = Costs(WINDOW, KV_HEADS, HEAD_DIM, decision=40.0)


def drawn(seed: int, group: int = 3) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Margins [N, H], positions [N] and layers [N] of three prompts of different lengths."""
    random, margins, positions, layers = np.random.default_rng(seed), [], [], []
    for queries, first in ((3, 20), (5, 90), (2, 300)):
        margins.append(random.normal(size=(2 * queries, KV_HEADS * group)).round(1).astype(np.float32))
        positions.append(np.tile(np.arange(first, first + queries), 2).astype(np.int32))
        layers.append(np.repeat([0, 1], queries).astype(np.int16))
    return margins, positions, layers


def counted(labels: np.ndarray, position: np.ndarray, layer: np.ndarray) -> float:
    """The share of the KV bytes as evaluation counts it, of labels [N, H]."""
    counts = ReadingCounts(1, Sizes(labels.shape[1], KV_HEADS, HEAD_DIM, WINDOW))
    for each in np.unique(layer):
        rows = torch.from_numpy(labels[layer == each]).T[None]
        decision = torch.tensor([COSTS.decision * KV_HEADS], dtype=torch.float64)
        everyone = torch.ones(1, rows.shape[2], dtype=torch.bool)
        counts.add(int(each), rows, everyone, torch.from_numpy(position[layer == each]).long() + 1, decision)
    return counts.shares()[0].kv_bytes


def mean_bytes(margins, positions, layers, threshold: float) -> float:
    """The mean over prompts of what evaluation counts."""
    labels = [
        is_long(torch.from_numpy(m)[None].double(), torch.tensor([threshold], dtype=torch.float64))[0].numpy()
        for m in margins
    ]
    return np.mean([counted(*each) for each in zip(labels, positions, layers, strict=True)])


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 0.95), st.integers(0, 1000), st.sampled_from([1, 2, 3, 8]))
def test_a_threshold_spends_the_budget_and_a_larger_one_more(share: float, seed: int, group: int) -> None:
    margins, positions, layers = drawn(seed, group)
    margins[0][0, 0] = np.nan
    threshold = threshold_for_bytes(margins, positions, COSTS, share)
    least = mean_bytes(margins, positions, layers, -1e9)
    found = mean_bytes(margins, positions, layers, threshold)
    assert found <= max(share, least) + 1e-9
    more = mean_bytes(margins, positions, layers, float(np.nextafter(threshold, np.inf)))
    assert more > share - 1e-9 or more == mean_bytes(margins, positions, layers, 1e9)


def test_a_budget_below_the_windows_reads_nothing_else() -> None:
    margins, positions, _ = drawn(0)
    nothing = threshold_for_bytes(margins, positions, COSTS, 0.001)
    assert not any((group_margin(m, KV_HEADS) < nothing).any() for m in margins)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.8, 0.99])
def test_a_ranking_reads_as_many_groups_as_the_budget_pays(share: float) -> None:
    margins, positions, layers = drawn(3)
    rule = ShareOfBytes(COSTS)
    indices, labels = rule.ranking(margins, layers, positions, share)
    assert indices == [0, 1] and labels.shape == (2, 6)
    groups = labels.reshape(2, KV_HEADS, 3)
    assert (groups.all(2) == groups.any(2)).all()  # a group is read for all of its heads
    of_rows = [labels[layer] for layer in layers]
    reached = rule.reached(of_rows, positions)
    assert reached == pytest.approx(np.mean([counted(*x) for x in zip(of_rows, positions, layers, strict=True)]))
    none, full = (rule.reached([np.full_like(x, read) for x in of_rows], positions) for read in (False, True))
    assert reached <= max(share, none) + 1e-9
    assert share - reached < (full - none) / 4 or reached == pytest.approx(full)


def test_the_neediest_head_decides_for_its_group_as_a_reading_does() -> None:
    margins, _, _ = drawn(5)
    margins[0][1, 4] = np.nan
    margin = torch.from_numpy(margins[0]).T[None]
    read = Reading.of(is_long(margin, torch.tensor([0.2])), KV_HEADS).groups[0].T.numpy()
    assert (read == (group_margin(margins[0], KV_HEADS) < 0.2)).all()


def test_without_a_query_that_has_a_bulk_nothing_can_be_fitted() -> None:
    with pytest.raises(ConfigError, match=r"window\.recent"):
        threshold_for_bytes([np.zeros((0, 4))], [np.zeros(0, np.int32)], COSTS, 0.5)
    assert ShareOfBytes(COSTS).reached([np.zeros((0, 4), bool)], [np.zeros(0, np.int32)]) is None
