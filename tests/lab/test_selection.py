"""Rows that read chosen keys of their bulk, against attention and counts written out query by query in float64."""

from itertools import product
from math import ceil, floor, log

import pytest
import torch
from test_lab_evaluation import EOS
from tiny_models import random_ids, tiny_model

from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import OutlierRule
from headscope.heads.selectors import build as build_selector
from headscope.heads.window import Window
from headscope.lab.counts import ReadingCounts, Sizes
from headscope.lab.evaluation import answer_rows
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import LayerCall

WINDOW, PREFIX, OWN, KV_HEADS, DIM, SCALE = Window(2, 6), 50, 5, 2, 4, 0.7
BUDGETS = torch.tensor([0.2, 0.4, 0.75, 1.3], dtype=torch.float64)
SIZE = 4
PAIR = 2 * DIM * 2  # bytes
SPECS = {kind: {"kind": kind} for kind in ("top_keys", "pages")}
SPECS |= {"clusters": {"kind": "clusters", "bits": 16}, "keys": {"kind": "clusters", "size": 1, "bits": 16}}


def rows(kind: str, budgets=BUDGETS, criterion=None) -> Rows:
    selector = build_selector({"kind": "by_importance", "rule": kind, "size": SIZE} | SPECS.get(kind, {}))
    chosen = criterion or build({"kind": "dense"}, [{}] * len(budgets), None)
    return Rows(chosen, selector=selector, budget=budgets)


def drawn(group: int, seed: int = 0) -> tuple[LayerCache, LayerCall]:
    """A prefix, and a call of four rows with some own keys; some keys are equal, so that ranks tie."""
    torch.manual_seed(seed)
    keys, values = torch.randn(2, KV_HEADS, PREFIX, DIM, dtype=torch.float64)
    keys[:, 20:24] = keys[:, 30:34]
    own = torch.randn(2, 4, KV_HEADS, OWN, DIM, dtype=torch.float64)
    query = 2 * torch.randn(4, KV_HEADS * group, OWN, DIM, dtype=torch.float64)
    return LayerCache(0, keys, values, SCALE), LayerCall(0, query, *own, SCALE, None)


class WrittenOut:
    """One query of one row and KV head: its window, what its budget pays, and what it reads."""

    def __init__(self, cache: LayerCache, call: LayerCall, row: int, head: int, at: int):
        self.position = PREFIX + at
        own = (x[row, head] for x in (call.key, call.value))
        self.keys, self.values = (torch.cat([x[head], o]) for x, o in zip((cache.keys, cache.values), own, strict=True))
        group = call.query.shape[1] // KV_HEADS
        self.queries = call.query[row, head * group : (head + 1) * group, at]
        visible = range(self.position + 1)
        self.window = [j for j in visible if j < WINDOW.sink or j > self.position - WINDOW.recent]
        self.indexed = range(WINDOW.sink, PREFIX - WINDOW.recent)
        self.later = [j for j in visible if j not in self.window and j not in self.indexed]

    def weights(self, scores: torch.Tensor) -> torch.Tensor:
        """Shares of attention by scores [G, M], summed over the group's heads."""
        mass = (self.queries @ self.keys[self.window].T * SCALE).logsumexp(1)
        return (scores - mass.logaddexp(scores.logsumexp(1))[:, None]).exp().sum(0)

    def chosen(self, kind: str, budget: float) -> tuple[list[int], float]:
        """The indexed keys that are read, and the pairs that the index costs."""
        count = len(self.indexed)
        index = ceil(count / SIZE) if kind == "pages" else 0  # two keys a page are as many bytes as a pair
        paid = budget * (self.position + 1) - WINDOW.sink - WINDOW.recent - index
        paid = min(max(paid, 0), count + len(self.later)) - len(self.later)
        if kind == "recent":
            return [*self.indexed][count - max(0, floor(paid)) :], index
        if kind == "top_keys":
            weights = self.weights(self.queries @ self.keys[self.indexed].T * SCALE)
            order = sorted(range(count), key=lambda i: (-weights[i], i))
            return [self.indexed[i] for i in order[: max(0, floor(paid))]], index
        pages = [list(self.indexed)[first : first + SIZE] for first in range(0, count, SIZE)]
        bounds = torch.stack([
            torch.maximum(self.queries * self.keys[page].amin(0), self.queries * self.keys[page].amax(0)).sum(1)
            for page in pages
        ], 1) * SCALE  # fmt: skip
        assert (
            bounds >= (torch.stack([(self.queries @ self.keys[p].T).amax(1) for p in pages], 1) * SCALE) - 1e-9
        ).all()
        weights = self.weights(bounds)
        order = sorted(range(len(pages)), key=lambda i: (-weights[i], i))
        number = len(pages) if paid >= count else max(0, floor(paid / SIZE))
        return [j for i in order[:number] for j in pages[i]], index

    def output(self, read: list[int]) -> torch.Tensor:
        seen = sorted({*self.window, *self.later, *read})
        return (self.queries @ self.keys[seen].T * SCALE).softmax(1) @ self.values[seen]


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("kind", ["top_keys", "pages", "recent"])
def test_rows_read_what_their_budgets_pay(kind: str, group: int) -> None:
    cache, call = drawn(group, group)
    counts = ReadingCounts(4, Sizes(KV_HEADS * group, KV_HEADS, DIM, WINDOW))
    found = SharedPrefix([cache], [rows(kind)], WINDOW, counts).attend(call)
    shares = counts.shares()
    for row, budget in enumerate(BUDGETS.tolist()):
        read_pairs, visible = 0.0, 0
        for at in range(OWN):
            for head in range(KV_HEADS):
                one = WrittenOut(cache, call, row, head, at)
                read, index = one.chosen(kind, budget)
                got = found[row, head * group : (head + 1) * group, at]
                torch.testing.assert_close(got, one.output(read), rtol=1e-9, atol=1e-9)
                read_pairs += len(one.window) + len(one.later) + len(read) + index
                visible += one.position + 1
        assert shares[row].kv_bytes == pytest.approx(read_pairs / visible)
    assert shares[0].kv_bytes <= shares[1].kv_bytes < shares[2].kv_bytes < shares[3].kv_bytes


@pytest.mark.parametrize("kind", ["top_keys", "pages", "recent", "last_queries"])
def test_a_budget_for_everything_is_dense_and_a_small_one_is_not(kind: str) -> None:
    model, ids = tiny_model("llama"), random_ids(80)
    groups = [Rows(build({"kind": "dense"}, [{}], None)), rows(kind, torch.tensor([0.6, 2.0]).double())]
    dense, small, everything = answer_rows(model, ids, 66, groups, Window(4, 16), 24, [EOS])
    assert everything.tokens == dense.tokens != small.tokens
    assert dense.kv_bytes == 1 <= everything.kv_bytes and small.kv_bytes == pytest.approx(0.6, abs=0.06)
    assert (everything.kv_bytes == 1) == (kind != "pages")


def test_a_gate_keeps_groups_from_reading_and_outliers_are_read_once() -> None:
    """With a budget for everything, a gated row is the gated row without a selector."""
    model, ids, outliers = tiny_model("qwen3"), random_ids(80), OutlierRule("last_queries", 5)
    spec = {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"}
    gate = build({"kind": "lost_output", "unit": "group"}, [{"threshold": 0.3}], build_estimator(spec, {}))
    plain = Rows(gate, outliers)
    chosen = rows("top_keys", torch.tensor([9.0]).double(), gate)
    selecting = Rows(gate, outliers, chosen.selector, chosen.budget)
    alone, with_selector = answer_rows(model, ids, 66, [plain, selecting], Window(4, 16), 24, [EOS])
    assert 0 < alone.sparsity_group < 1
    assert with_selector.tokens == alone.tokens and with_selector.sparsity == alone.sparsity
    # Outliers of a group that is read are counted once with its bulk and once with its window, as everywhere.
    assert with_selector.kv_bytes == pytest.approx(alone.kv_bytes)


def test_rows_with_and_without_a_selector_share_a_batch() -> None:
    model, ids = tiny_model("gemma3"), random_ids(80)
    mixed = [rows("pages", torch.tensor([0.5]).double()), Rows(build({"kind": "local"}, [{}], None)), rows("top_keys")]
    together = answer_rows(model, ids, 66, mixed, Window(4, 16), 12, [EOS])
    alone = [answer for group in mixed for answer in answer_rows(model, ids, 66, [group], Window(4, 16), 12, [EOS])]
    assert together == alone


def test_clusters_of_one_key_are_dense_whatever_is_read() -> None:
    cache, call = drawn(3)
    dense = Rows(build({"kind": "dense"}, [{}] * 4, None))
    counts = ReadingCounts(4, Sizes(KV_HEADS * 3, KV_HEADS, DIM, WINDOW))
    found = SharedPrefix([cache], [rows("keys")], WINDOW, counts).attend(call)
    torch.testing.assert_close(found, SharedPrefix([cache], [dense], WINDOW).attend(call), rtol=1e-9, atol=1e-9)
    assert counts.shares()[0].kv_bytes > 1  # an index of all keys and values is no saving


@pytest.mark.parametrize("group", [1, 4])
def test_unread_clusters_are_stood_in_for_by_centre_and_mean_value(group: int) -> None:
    cache, call = drawn(group)
    counts = ReadingCounts(4, Sizes(KV_HEADS * group, KV_HEADS, DIM, WINDOW))
    found = SharedPrefix([cache], [rows("clusters")], WINDOW, counts).attend(call)
    indexed = range(WINDOW.sink, PREFIX - WINDOW.recent)
    index = rows("clusters").selector.index(Bulk.between(cache, indexed.start, indexed.stop))
    assert index.size.sum(1).tolist() == [len(indexed)] * KV_HEADS
    clusters = index.size.shape[1]
    index_pairs = clusters + clusters * 2 / PAIR
    for row, budget in enumerate(BUDGETS.tolist()):
        read_pairs, visible = 0.0, 0
        for at, head in product(range(OWN), range(KV_HEADS)):
            one = WrittenOut(cache, call, row, head, at)
            members = [[j for j in indexed if index.cluster[head, j - indexed.start] == c] for c in range(clusters)]
            filled = [c for c in range(clusters) if members[c]]
            centres = {c: one.keys[members[c]].mean(0) for c in filled}
            scores = torch.stack([one.queries @ centres[c] * SCALE + log(len(members[c])) for c in filled], 1)
            weights = one.weights(scores)
            paid = budget * (one.position + 1) - WINDOW.sink - WINDOW.recent - index_pairs
            paid = min(max(paid, 0), len(indexed) + len(one.later)) - len(one.later)
            read: list[int] = []
            order = sorted(range(len(filled)), key=lambda i: (-weights[i], i))
            for place, i in enumerate(order):
                if len(read) + len(members[filled[i]]) > paid:
                    order = order[place:]
                    break
                read += members[filled[i]]
            else:
                order = []
            seen = sorted({*one.window, *one.later, *read})
            every = torch.cat([one.queries @ one.keys[seen].T * SCALE, scores[:, order]], 1).softmax(1)
            values = [one.values[seen], *(one.values[members[filled[i]]].mean(0)[None] for i in order)]
            got = found[row, head * group : (head + 1) * group, at]
            torch.testing.assert_close(got, every @ torch.cat(values), rtol=1e-9, atol=1e-9)
            read_pairs += len(seen) + index_pairs
            visible += one.position + 1
        assert counts.shares()[row].kv_bytes == pytest.approx(read_pairs / visible)
