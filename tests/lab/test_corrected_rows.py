"""Attention of rows whose local heads are given the bulk's estimate, output for output, in float64."""

import pytest
import torch

from headscope.heads.bulk import LayerCache
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.window import Window
from headscope.lab.shared_prefix import Rows, SharedPrefix
from headscope.models.attention import LayerCall, causal_attention

PREFIX, DIM, SCALE = 60, 8, 0.4
EXACT = {
    "sampled": {"kind": "sampled", "name": "s", "count": PREFIX},
    "blocks": {"kind": "blocks", "name": "b", "block": 7, "top": PREFIX},
}
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "full", "capped": False, "moments": "prompt"}
GAUSSIAN["values"] = "covariance"


class OneLater(Window):
    """Summarises the key that leaves the window with the first query, too, so that its whole bulk is known."""

    def summarised(self, boundary: int) -> tuple[int, int]:
        first, last = super().summarised(boundary)
        return first, last + 1


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PREFIX_KEYS, PREFIX_VALUES = draw(2, PREFIX, DIM, seed=1), draw(2, PREFIX, DIM, seed=2)


def local(spec: dict, correction: bool) -> Rows:
    """A row whose heads are all local."""
    targets = [{"threshold": -torch.inf}]
    return Rows(build({"kind": "lost_output", "correction": correction}, targets, build_estimator(spec, {})))


def attend(groups: list[Rows], window: Window, queries: int = 1) -> tuple[torch.Tensor, torch.Tensor, SharedPrefix]:
    """Outputs of the rows, and the dense ones, [R, H, Q, D]: every row has the same queries and own keys."""
    rows = len(groups)
    query, key, value = (
        draw(1, heads, queries, DIM, seed=seed).expand(rows, -1, -1, -1) for heads, seed in ((6, 3), (2, 4), (2, 5))
    )
    shared = SharedPrefix([LayerCache(0, PREFIX_KEYS, PREFIX_VALUES)], groups, window)
    found = shared.attend(LayerCall(0, query, key, value, SCALE, None))
    every = [
        torch.cat([old.expand(rows, -1, -1, -1), own], 2) for old, own in ((PREFIX_KEYS, key), (PREFIX_VALUES, value))
    ]
    return found, causal_attention(LayerCall(0, query, *every, SCALE, None)), shared


@pytest.mark.parametrize("name", EXACT)
def test_local_heads_that_are_given_the_exact_bulk_attend_densely(name: str) -> None:
    found, dense, shared = attend([local(EXACT[name], False), local(EXACT[name], True)], OneLater(4, 16))
    assert shared.counts.sparsity(1)[0] == 1
    torch.testing.assert_close(found[1], dense[1])
    assert (found[0] - dense[0]).norm(dim=-1).min() > 0.1


def test_a_row_without_bulk_is_unchanged_bit_for_bit() -> None:
    specs = [EXACT["sampled"], GAUSSIAN]
    # Compared in the same places of a batch: the products of other places may differ in their last bits.
    plain, dense, _ = attend([local(spec, False) for spec in specs], Window(4, PREFIX), queries=3)
    found, _, _ = attend([local(spec, True) for spec in specs], Window(4, PREFIX), queries=3)
    assert torch.equal(found, plain)
    torch.testing.assert_close(found, dense)


def test_long_heads_read_the_bulk_whatever_its_estimate() -> None:
    long = build({"kind": "qada", "correction": True}, [{"threshold": torch.inf}], build_estimator(GAUSSIAN, {}))
    found, dense, shared = attend([Rows(long)], Window(4, 16), queries=3)
    assert shared.counts.sparsity(0)[0] == 0
    torch.testing.assert_close(found, dense)
