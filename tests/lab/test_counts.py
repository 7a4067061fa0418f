"""Counts of local pairs."""

import math

import torch

from headscope.lab.counts import LocalCounts


def test_shares_of_pairs_that_rows_labelled_local_before_they_left() -> None:
    generator, counts = torch.Generator().manual_seed(0), LocalCounts(3)
    seen: dict[int, list[tuple[int, torch.Tensor]]] = {row: [] for row in range(3)}
    active = [0, 1, 2]
    for going in ([0, 2], [1], None):
        for layer in (4, 7):
            long = torch.rand(len(active), 4, 5, generator=generator) < 0.4
            counted = torch.tensor([False, True, True, False, True])
            counts.add(layer, long, 2, counted.expand(len(active), -1))
            for row, labels in zip(active, long, strict=True):
                seen[row].append((layer, ~labels[:, counted]))
        if going is not None:
            counts.keep(torch.tensor(going))
            active = [active[i] for i in going]
    for row, steps in seen.items():
        local = torch.cat([labels for _, labels in steps], 1).double()
        groups = local.view(2, 2, -1).all(1).double()
        assert counts.sparsity(row) == (local.mean().item(), groups.mean().item())
        by_layer = [torch.cat([found for at, found in steps if at == layer], 1).double().mean() for layer in (4, 7)]
        torch.testing.assert_close(
            torch.tensor(counts.by_layer(row)).double(), torch.stack(by_layer), rtol=1e-6, atol=0
        )
        assert counts.queries(row) == 3 * len(steps) // 2


def test_rows_that_met_no_bulk_have_no_sparsity() -> None:
    counts = LocalCounts(1)
    assert counts.queries(0) == 0 and counts.by_layer(0) == []
    counts.add(0, torch.ones(1, 2, 3, dtype=torch.bool), 1, torch.zeros(1, 3, dtype=torch.bool))
    assert counts.queries(0) == 0 and all(map(math.isnan, [*counts.sparsity(0), *counts.by_layer(0)]))
