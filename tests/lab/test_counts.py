"""Counts of local pairs and of bytes that were read."""

import math

import torch

from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts, Sizes

SIZES = Sizes(heads=4, kv_heads=2, head_dim=8, window=Window(4, 16))
COUNTED = torch.tensor([False, True, True, False, True])
KEYS = torch.tensor([20, 40, 41, 19, 100])
PAIR = 2 * 8 * 2
"""Bytes of a key with its value."""


def test_shares_are_those_of_the_pairs_that_rows_read_before_they_left() -> None:
    generator, counts = torch.Generator().manual_seed(0), ReadingCounts(3, SIZES)
    steps: dict[int, list[tuple[int, torch.Tensor]]] = {row: [] for row in range(3)}
    active = [0, 1, 2]
    for staying in ([0, 2], [1], None):
        for layer in (4, 7):
            long = torch.rand(len(active), 4, 5, generator=generator) < 0.4
            costs = torch.full((len(active),), 10.0 * layer)
            counts.add(layer, long, COUNTED.expand(len(active), -1), KEYS, costs)
            for row, labels in zip(active, long, strict=True):
                steps[row].append((layer, labels[:, COUNTED]))
        if staying is not None:
            counts.keep(torch.tensor(staying))
            active = [active[i] for i in staying]
    for row, shares in enumerate(counts.shares()):
        long = torch.cat([labels for _, labels in steps[row]], 1).double()
        read = long.view(2, 2, -1).amax(1)
        keys = KEYS[COUNTED].repeat(len(steps[row])).double()
        decisions = sum(10.0 * layer * 3 for layer, _ in steps[row])
        cost = PAIR * (20 * read.numel() + (read * (keys - 20)).sum()) + decisions
        assert math.isclose(shares.head, 1 - long.mean().item())
        assert math.isclose(shares.group, 1 - read.mean().item())
        assert math.isclose(shares.kv_bytes, float(cost / (PAIR * 2 * keys.sum())))
        assert shares.queries == 3 * len(steps[row]) // 2
        by_layer = [torch.cat([x for at, x in steps[row] if at == layer], 1).double().mean() for layer in (4, 7)]
        torch.testing.assert_close(torch.tensor(counts.layer_shares()[row]).double(), 1 - torch.stack(by_layer))


def test_rows_without_a_bulk_have_no_shares() -> None:
    counts = ReadingCounts(1, SIZES)
    assert counts.shares()[0].queries == 0 and counts.layer_shares() == [[]]
    counts.add(0, torch.ones(1, 4, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool), KEYS[:3], torch.zeros(1))
    (shares,) = counts.shares()
    assert shares.queries == 0 and all(map(math.isnan, [*shares[:3], *counts.layer_shares()[0]]))


def test_counts_of_one_row_add_to_those_of_all() -> None:
    counts = ReadingCounts(2, SIZES)
    long = torch.ones(1, 4, 5, dtype=torch.bool)
    counts.of_row(1).add(0, long, COUNTED[None], KEYS, torch.zeros(1))
    first, second = counts.shares()
    assert first.queries == 0 and second.queries == 3 and second.kv_bytes == 1
