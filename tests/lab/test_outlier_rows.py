"""Rows whose window holds outlier keys, against attention written out head by head."""

import pytest
import torch
from tiny_models import EOS, random_ids, tiny_model

from headscope.errors import ConfigError
from headscope.heads.bulk import LAST_QUERIES, Bulk, LayerCache
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import OutlierRule, importance
from headscope.heads.quantised import rounded
from headscope.heads.window import Window
from headscope.lab.evaluation import answer_rows
from headscope.lab.prefill import prefill_densely
from headscope.lab.probes import ModelProbes, fit_probes
from headscope.lab.rows import Rows
from headscope.models.attention import LayerCall, attention

WINDOW, IDS, BOUNDARY, BUDGET = Window(sink=4, recent=16), random_ids(80), 66, 12
OUTLIERS = OutlierRule("last_queries", 6)
ROUNDED = OutlierRule(OUTLIERS.rule, OUTLIERS.count, bits=3)
SHARED, LEAST = OutlierRule("probe_attention", 6, bits=3, shared=2 / 3), 2
GAUSSIAN = {"kind": "gaussian", "name": "g", "covariance": "diagonal", "moments": "prompt"}
ONE = {"kind": "clusters", "name": "o", "clusters": 1, "covariance": "diagonal", "bits": 16}
"""The same Gaussian, which serves KV heads with different numbers of keys."""
SLOPES, OFFSETS = [1.0, 1.2, 0.8, 1.0], [0.0, -0.3, 0.2, -0.1]
MAP = {"layers": [0, 1, 2], "slope": [SLOPES] * 3, "offset": [OFFSETS] * 3}
ESTIMATED = ("qada", "lost_output")
OUTPUT = 0.0
THRESHOLDS = {"oracle": 0.2, "qada": 0.2, "oracle_output": OUTPUT, "lost_output": OUTPUT}


def criterion(kind: str, spec=GAUSSIAN):
    targets = [{"threshold": THRESHOLDS.get(kind, 0.0), "map": MAP}]
    estimator = build_estimator(spec, {}) if kind in ESTIMATED else None
    return build({"kind": kind}, targets, estimator)


def fitted(model) -> ModelProbes:
    """Probes of the model; later heads count more, so that heads share unevenly."""
    probes = fit_probes(model, [(random_ids(40, 7), 33)], 7)
    weight = {layer: weight * torch.arange(1.0, 1 + len(weight)) ** 2 for layer, weight in probes.weight.items()}
    return ModelProbes(probes.queries, weight)


def start_of(position: int, chunk: int | None) -> int | None:
    """Where the summaries that a query meets were frozen; None: it is dense."""
    if position >= BOUNDARY or chunk is None:
        return BOUNDARY if position >= BOUNDARY else None
    doubled = [20 + 2**k - 1 for k in range(8) if 2**k <= chunk]
    return max(start for start in (*doubled, *range(0, BOUNDARY, chunk)) if start <= position)


class WrittenOut:
    """Attention of one sequence by the definitions, a head and query at a time; the context is dense or in chunks."""

    def __init__(self, kind: str, outliers: OutlierRule, chunk: int | None = None):
        self.kind, self.outliers, self.chunk, self.labels = kind, outliers, chunk, []

    def attend(self, call: LayerCall) -> torch.Tensor:
        output = torch.zeros_like(call.query)
        group = call.query.shape[1] // call.key.shape[1]
        for position in range(call.query.shape[2]):
            start = start_of(position, self.chunk)
            if position == 0 or start != start_of(position - 1, self.chunk):
                chosen = self._freeze(call, start or 0)
            for head in range(call.query.shape[1]):
                outliers = set(chosen[head // group])
                sides = [range(position + 1), []]
                if start is not None:
                    local = [j for j in range(position + 1) if j < 4 or j > position - 16 or j in outliers]
                    sides = [local, sorted(set(range(position + 1)) - set(local))]
                rest = [j for j in range(4, (start or 0) - 16) if j not in outliers]
                output[0, head, position] = self._one(call, head, head // group, position, sides, rest)
        return output

    def _freeze(self, call, start):
        """Choose the outliers of each KV head and round them."""
        chosen = self._chosen(call, start)
        self.held = [call.key[0].clone(), call.value[0].clone()]
        for data in self.held:
            for head, outliers in zip(data, chosen, strict=True):
                head[outliers] = rounded(head[None, outliers], self.outliers.bits)[0]
        return chosen

    def _chosen(self, call, start):
        keys, values = call.key[0, :, :start], call.value[0, :, :start]
        queries = call.query[0, :, max(0, start - LAST_QUERIES) : start]
        bulk = Bulk.between(LayerCache(call.layer, keys, values, call.scale, queries=queries), 4, start - 16)
        if not bulk.index.shape[1]:
            return [[]] * len(keys)
        ((_, marks),) = self.outliers.marked([bulk])
        return [of_head[chosen].tolist() for of_head, chosen in zip(bulk.index, marks, strict=True)]

    def _one(self, call, head, kv, position, sides, rest):
        query, keys, values = call.query[0, head, position], call.key[0, kv], call.value[0, kv]
        scores = keys[: position + 1] @ query * call.scale
        whole = scores.softmax(0) @ values[: position + 1]
        held = self.held[0][kv][sides[0]] @ query * call.scale
        if not sides[1]:
            return whole if self.kind == "dense" else held.softmax(0) @ self.held[1][kv][sides[0]]
        masses = [held.logsumexp(0), scores[sides[1]].logsumexp(0)]
        outputs = [held.softmax(0) @ self.held[1][kv][sides[0]], scores[sides[1]].softmax(0) @ values[sides[1]]]
        if self.kind in ESTIMATED:
            count = max(len(rest), 1)  # of nothing seen, scores and values are taken as zero
            mean = keys[rest].sum(0) / count
            variance = (keys[rest] - mean).square().sum(0) / count
            masses[1] = torch.tensor(float(len(sides[1]))).log() + mean @ query * call.scale
            masses[1] = masses[1] + variance @ query.square() * call.scale**2 / 2
            outputs[1] = values[rest].sum(0) / count
        margin = masses[0] - masses[1]
        if self.kind.endswith("output"):
            lost = torch.sigmoid(-margin) * (outputs[1] - outputs[0]).norm()
            margin = -lost.log()
        margin = margin * SLOPES[head] + OFFSETS[head]
        long = {"dense": True, "local": False}.get(self.kind, bool(margin < THRESHOLDS.get(self.kind, 0.0)))
        self.labels.append((call.layer, head, position, long))
        return whole if long else outputs[0]


@pytest.mark.parametrize("chunk", [None, 1, 7, 20, 100])
@pytest.mark.parametrize("outliers", [OUTLIERS, ROUNDED], ids=["exact", "rounded"])
@pytest.mark.parametrize("kind", ["dense", "local", "oracle", "qada", "oracle_output", "lost_output"])
def test_every_token_and_label_is_that_of_the_definitions(kind: str, outliers: OutlierRule, chunk: int | None) -> None:
    model, rows = tiny_model("llama"), [Rows(criterion(kind), outliers)]
    (answer,) = answer_rows(model, IDS, BOUNDARY, rows, WINDOW, BUDGET, [EOS], chunk=chunk)
    fed = answer.tokens if answer.stop == "eos" else answer.tokens[:-1]
    plain = WrittenOut(kind, outliers, chunk)
    with torch.inference_mode(), attention(model):
        logits = model(torch.tensor([IDS + fed]), use_cache=False, headscope=plain).logits[0, len(IDS) - 1 :]
    assert logits.argmax(-1).tolist()[: len(answer.tokens)] == answer.tokens
    labels = torch.tensor([long for *_, long in plain.labels])
    assert answer.sparsity == pytest.approx(1 - labels.double().mean().item())
    if plain.kind in THRESHOLDS:
        assert 0.05 < answer.sparsity < 0.95  # both labels occur
    assert answer.queries == len({position for _, _, position, _ in plain.labels})
    if chunk is None:
        assert answer.queries == len(IDS) - BOUNDARY + len(fed)


class SharedWrittenOut(WrittenOut):
    """The same with outliers that heads share: every layer's keys are seen before any layer attends."""

    def __init__(self, kind: str, prefix: list[LayerCache]):
        super().__init__(kind, SHARED)
        bulks = [Bulk.between(cache, 4, BOUNDARY - 16) for cache in prefix]
        measured = [importance(SHARED.rule, bulk).tolist() for bulk in bulks]
        ranked = {
            (layer, head): sorted(range(len(of_head)), key=of_head.__getitem__, reverse=True)
            for layer, of_layer in enumerate(measured)
            for head, of_head in enumerate(of_layer)
        }
        chosen = [(*head, key) for head, keys in ranked.items() for key in keys[:LEAST]]
        others = [(*head, key) for head, keys in ranked.items() for key in keys[LEAST:]]
        others.sort(key=lambda at: measured[at[0]][at[1]][at[2]], reverse=True)
        chosen += others[: len(ranked) * SHARED.count - len(chosen)]
        self.positions = [
            [sorted(4 + key for *at, key in chosen if at == [layer, head]) for head in range(len(of_layer))]
            for layer, of_layer in enumerate(measured)
        ]

    def _chosen(self, call, start):
        return self.positions[call.layer] if start else [[]] * call.key.shape[1]


@pytest.mark.parametrize("kind", ["local", "oracle", "qada", "oracle_output", "lost_output"])
def test_heads_that_share_outliers_have_those_of_the_definitions(kind: str) -> None:
    model, rows = tiny_model("llama"), [Rows(criterion(kind, ONE), SHARED)]
    (answer,) = answer_rows(model, IDS, BOUNDARY, rows, WINDOW, BUDGET, [EOS], probes=fitted(model))
    fed = answer.tokens if answer.stop == "eos" else answer.tokens[:-1]
    with torch.inference_mode(), attention(model):
        plain = SharedWrittenOut(kind, prefill_densely(model, IDS[:BOUNDARY], fitted(model)))
        counts = {len(chosen) for of_layer in plain.positions for chosen in of_layer}
        assert min(counts) >= LEAST and len(counts) > 1
        logits = model(torch.tensor([IDS + fed]), use_cache=False, headscope=plain).logits[0, len(IDS) - 1 :]
    assert logits.argmax(-1).tolist()[: len(answer.tokens)] == answer.tokens
    labels = torch.tensor([long for *_, long in plain.labels])
    assert answer.sparsity == pytest.approx(1 - labels.double().mean().item())


@pytest.mark.parametrize(("family", "chunk"), [("llama", None), ("llama", 20), ("gemma3", None), ("gemma3", 20)])
def test_rows_with_other_outliers_do_not_disturb_each_other(family: str, chunk: int | None) -> None:
    model = tiny_model(family, torch.float32)
    choices = [OutlierRule(), OUTLIERS, ROUNDED, SHARED, OutlierRule("recent", 9)]
    kinds = ("qada", "lost_output", "oracle")
    groups = [
        Rows(criterion(kind, ONE if outliers.shared else GAUSSIAN), outliers) for kind in kinds for outliers in choices
    ]
    options = {"probes": fitted(model), "chunk": chunk}
    together = answer_rows(model, IDS, BOUNDARY, groups, WINDOW, BUDGET, [EOS], **options)
    assert len({tuple(answer.tokens) for answer in together}) > 1
    for group, answer in zip(groups, together, strict=True):
        assert answer_rows(model, IDS, BOUNDARY, [group], WINDOW, BUDGET, [EOS], **options) == [answer]


def test_a_context_inside_the_window_has_no_outliers_and_counts_no_query() -> None:
    rows = [Rows(criterion("oracle"), OUTLIERS)]
    (answer,) = answer_rows(tiny_model("llama"), IDS[:12], 9, rows, WINDOW, 3, [EOS])
    assert answer.queries == 0 and answer.sparsity != answer.sparsity


def test_outliers_that_heads_share_need_an_estimator_for_different_numbers_of_keys() -> None:
    model, rows = tiny_model("llama"), [Rows(criterion("qada"), SHARED)]
    with pytest.raises(ConfigError, match="as many outliers of each KV head; choose shared=0"):
        answer_rows(model, IDS, BOUNDARY, rows, WINDOW, 2, [EOS], probes=fitted(model))
