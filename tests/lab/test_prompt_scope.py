"""`scope=prompt`: the criterion decides in the context too; test_outlier_rows has it written out, chunk by chunk."""

from dataclasses import replace

import pytest
import torch
from test_lab_evaluation import BOUNDARY, BUDGET, GAUSSIAN, IDS, WINDOW, criteria
from test_outlier_rows import OUTLIERS, criterion, start_of
from tiny_models import CONFIGS, EOS, random_ids, tiny_model

from headscope.heads.bulk import LayerCache
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.mass import log_masses
from headscope.heads.outliers import NO_OUTLIERS
from headscope.heads.window import Window
from headscope.lab.counts import Sizes
from headscope.lab.evaluation import Answer, answer_rows
from headscope.lab.margins import margins
from headscope.lab.masses import record_masses
from headscope.lab.prefill import prefill_by_chunks, prefill_densely
from headscope.lab.probes import fit_probes
from headscope.lab.prompt_scope import _dense_counts
from headscope.lab.rows import Rows
from headscope.lab.scope import SAMPLED, recorded_positions, summary_positions
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import attention, causal_attention

FIRST = WINDOW.sink + WINDOW.recent  # the first query with a bulk
KINDS = ("oracle", "qada", "lost_output")


def run(model, chosen, chunk, window=WINDOW, ids=IDS) -> list[Answer]:
    return answer_rows(model, ids, BOUNDARY, chosen, window, BUDGET, [EOS], chunk=chunk)


def reading_everything() -> Rows:
    return Rows(build({"kind": "qada"}, [{"threshold": torch.inf}], build_estimator(GAUSSIAN, {})))


@pytest.mark.parametrize("family", [name for name in CONFIGS if name != "mistral_sliding"])
def test_dense_is_that_of_scope_question_and_so_is_a_criterion_that_reads_everything(family: str) -> None:
    model = tiny_model(family)
    (plain,) = run(model, [Rows(build({"kind": "dense"}, [{}], None))], None)
    for answer in run(model, [Rows(build({"kind": "dense"}, [{}], None)), reading_everything()], 7):
        assert (answer.tokens, answer.stop, answer.sparsity) == (plain.tokens, plain.stop, 0.0)
        assert answer.queries == plain.queries + BOUNDARY - FIRST


@pytest.mark.parametrize("chunk", [7, 1000])
def test_a_window_over_everything_makes_every_row_dense_and_counts_nothing(chunk: int) -> None:
    answers = run(tiny_model("llama"), criteria(), chunk, Window(16, 128))
    assert all(answer.tokens == answers[0].tokens for answer in answers)
    assert all(answer.queries == 0 and answer.sparsity != answer.sparsity for answer in answers)


def test_rows_come_in_their_order_each_as_if_alone() -> None:
    model, first = tiny_model("llama"), 0
    together = run(model, criteria(), 9)
    for group in criteria():
        for row in range(group.count):
            (alone,) = run(model, [Rows(group.criterion.take(torch.tensor([row])))], 9)
            assert alone == together[first + row]
        first += group.count
    assert len({tuple(answer.tokens) for answer in together}) > 4


def test_chunks_matter_to_summaries_alone() -> None:
    """Oracle, static and local freeze nothing: any chunk is exactly causal. QAdA's summaries come with chunks."""
    model = tiny_model("llama")
    small, large = run(model, criteria(), 1), run(model, criteria(), 1000)
    assert small[:7] == large[:7]
    assert small[7:] != large[7:]


def kept_keys(model, ids, rows: Rows, chunk: int) -> list[torch.Tensor]:
    with torch.inference_mode(), attention(model):
        bounds = summary_positions(WINDOW, len(ids), chunk)
        layers = prefill_by_chunks(model, ids, bounds, lambda prefix: SharedPrefix(prefix, [rows], WINDOW))
    return [layer.keys for layer in layers]


@pytest.mark.parametrize("kind", KINDS)
def test_no_query_knows_a_token_behind_it(kind: str) -> None:
    model, rows = tiny_model("llama"), Rows(criterion(kind), OUTLIERS)
    changed = [*IDS[:50], *random_ids(16, 9)]
    for before, after in zip(kept_keys(model, IDS[:66], rows, 13), kept_keys(model, changed, rows, 13), strict=True):
        torch.testing.assert_close(before[:, :50], after[:, :50])
        assert not torch.allclose(before[:, 50:], after[:, 50:])


def test_probes_are_turned_to_the_start_of_each_chunk() -> None:
    model = tiny_model("llama")
    fitted, seen = fit_probes(model, [(random_ids(40), 33)], 7), []
    with torch.inference_mode(), attention(model):

        def attending(prefix):
            seen.append(prefix)
            return SharedPrefix(prefix, [reading_everything()], WINDOW)

        bounds = summary_positions(WINDOW, 50, 12)
        seen.append(prefill_by_chunks(model, IDS[:50], bounds, attending, fitted))
        whole = prefill_densely(model, IDS[:50], fitted)
    assert bounds == [FIRST, 21, 23, 24, 27, 36, 48, 50]
    for prefix, start in zip(seen, bounds, strict=True):
        for layer, cache in enumerate(prefix):
            assert torch.equal(cache.probes.queries, fitted.at(model, layer, start).queries)
            torch.testing.assert_close(cache.keys, whole[layer].keys[:, :start])
            torch.testing.assert_close(cache.values, whole[layer].values[:, :start])


@pytest.mark.parametrize(
    ("boundary", "chunk", "starts"),
    [
        (66, None, [66]),
        (66, 10, [20, 21, 23, 27, 30, 40, 50, 60, 66]),
        (66, 1000, [20, 21, 23, 27, 35, 51, 66]),
        (60, 30, [20, 21, 23, 27, 30, 35, 60]),
        (23, 1, [20, 21, 22, 23]),
        (18, 4, [18]),
        (20, 4, [20]),
    ],
)
def test_summaries_are_frozen_at_multiples_of_a_chunk_and_at_first_more_often(
    boundary: int, chunk: int | None, starts: list[int]
) -> None:
    assert summary_positions(WINDOW, boundary, chunk) == starts


@pytest.mark.parametrize("length", [19, 21, 276, 277, 500, 40_000])
def test_a_prompts_sample_is_even_over_the_queries_with_a_bulk(length: int) -> None:
    found = recorded_positions(WINDOW, 10, length, 8)
    assert len(found) == max(1, min(SAMPLED, length - FIRST))
    assert found[-1] < length and (length < FIRST or found[0] >= FIRST)
    if len(found) > 1:
        gaps = found.diff()
        assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
        assert found.double().mean() == pytest.approx((FIRST + length - 1) / 2, abs=1)


class Calls:
    def __init__(self):
        self.by_layer = {}

    def attend(self, call):
        self.by_layer[call.layer] = call
        return causal_attention(call)


def test_recorded_masses_and_estimates_are_those_of_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headscope.lab.scope.SAMPLED", 23)
    model, fed, estimator = tiny_model("llama"), random_ids(8, 5), build_estimator(GAUSSIAN, {})
    layers, calls = record_masses(model, IDS, fed, BOUNDARY, WINDOW, [estimator], 11), Calls()
    with attention(model), torch.inference_mode():
        model(torch.tensor([[*IDS, *fed]]), headscope=calls)
    positions = recorded_positions(WINDOW, BOUNDARY, len(IDS) + 8, 11)
    assert len(positions) == 23 and {23, 33, 44, 55, 66} <= {start_of(p, 11) for p in positions.tolist()}
    for layer, call in calls.by_layer.items():
        masses = log_masses(call.query[:, :, positions], call.key, positions, WINDOW, call.scale)
        torch.testing.assert_close(layers[layer].masses.bulk, masses.bulk)
        torch.testing.assert_close(layers[layer].masses.local, masses.local)
        for place, position in enumerate(positions.tolist()):
            keys = call.key[0, :, 4 : max(4, start_of(position, 11) - 16)]
            seen = max(1, keys.shape[1])
            mean = keys.sum(1, keepdim=True) / seen
            spread = (keys - mean).transpose(1, 2) @ (keys - mean) / seen
            for head in range(4):
                query, kv = call.query[0, head, position] * call.scale, head // 2
                expected = mean[kv, 0] @ query + query @ spread[kv] @ query / 2 + masses.bulk_size[place].log()
                torch.testing.assert_close(layers[layer].estimates["g"][head, place], expected)


def test_margins_without_outliers_are_those_of_the_recorded_masses() -> None:
    model, estimator = tiny_model("qwen3"), build_estimator(GAUSSIAN, {})
    qada = build({"kind": "qada"}, [{"threshold": 0.0}], estimator)
    (found,) = margins(model, IDS, BOUNDARY, [Rows(qada)], WINDOW, None, len(IDS), 11)
    for layer, expected in record_masses(model, IDS, [], BOUNDARY, WINDOW, [estimator], 11).items():
        local, bulk = expected.masses.local[0], expected.masses.bulk[0]
        torch.testing.assert_close(found[layer].exact, local - bulk)
        torch.testing.assert_close(found[layer].margin, local - expected.estimates["g"])


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("outliers", [NO_OUTLIERS, OUTLIERS], ids=["plain", "outliers"])
@pytest.mark.parametrize("kind", KINDS)
def test_margins_are_what_decides(kind: str, outliers, chunk: int) -> None:
    """In the first layer, whose states no criterion changes, recorded margins give the labels of decoding."""
    model = tiny_model("llama")
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:1], 1
    rows = [Rows(criterion(kind), outliers)]
    (answer,) = run(model, rows, chunk)
    fed = answer.tokens if answer.stop == "eos" else answer.tokens[:-1]
    ((layer,),) = (
        found.values() for found in margins(model, [*IDS, *fed], BOUNDARY, rows, WINDOW, None, len(IDS), chunk)
    )
    kept = layer.exact.isfinite().all(0)
    margin = rows[0].criterion.map.apply(0, layer.margin[None])[0]
    local = (margin >= rows[0].criterion.thresholds[0])[:, kept]
    assert answer.queries == int(kept.sum())
    assert answer.sparsity == pytest.approx(local.double().mean().item()) and 0 < answer.sparsity < 1


def test_a_dense_context_is_counted_where_its_keys_are() -> None:
    cache = LayerCache(3, *(torch.empty(2, 50, 8, device="meta") for _ in range(2)))
    counts = _dense_counts(Sizes(4, 2, 8, WINDOW), [cache, replace(cache, layer=4, sliding=9)], 2)
    (((layer, _), [(*labels, pairs)]),) = counts._waiting.items()
    assert layer == 3 and all(part.is_meta for part in labels) and pairs is None
