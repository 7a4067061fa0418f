"""Prompts that are decided while they are read (`scope=prompt`), against the engine, the dense model and themselves."""

from dataclasses import replace

import pytest
import torch
from adaptive_cases import IDS, NEW, WINDOW, at, calibrated, generated, one_by_one, small, text, tokenizer
from tiny_models import EOS, random_ids
from transformers import DynamicCache

from headscope import Shares, adaptive
from headscope.errors import ConfigError, UnsupportedModelError
from headscope.inference.adaptive_prefill import AdaptivePrefill
from headscope.lab.evaluation import answer_rows
from headscope.lab.rows import Rows

CHUNK = 11
FAMILIES = ["llama", "qwen2", "gemma3"]


def scoped(model, **options):
    """A criterion of `scope=prompt`."""
    return calibrated(model, "qada", **{"scope": "prompt", "chunk": CHUNK, **options})


def both(prompt: Shares, answer: Shares) -> tuple[float, float, int]:
    """Shares over the queries of prompt and answer, as the engine counts them."""
    queries = prompt.queries + answer.queries
    head, group = (
        (getattr(prompt, of) * prompt.queries + getattr(answer, of) * answer.queries) / queries
        for of in ("head", "group")
    )
    return head, group, queries


@pytest.mark.parametrize("chunk", [1, CHUNK, 500])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_labels_are_those_of_the_engine(family: str, chunk: int) -> None:
    model = small(family, torch.float64)
    criterion, total = scoped(model, chunk=chunk), 0
    for target in criterion.thresholds:
        with adaptive(model, criterion, target) as run:
            first, *found = generated(model, IDS[:1])[0].tolist()
        given = [*IDS[0], first], len(IDS[0]), [Rows(criterion.built(target))], WINDOW, NEW - 1, [EOS], NEW - 1
        [answer] = answer_rows(model, *given, chunk=chunk)
        assert found == answer.tokens
        expected = answer.sparsity, answer.sparsity_group, answer.queries
        assert both(run.prompts[0], run.rows[0]) == pytest.approx(expected)
        total += run.prompts[0].head
    assert 0 < total < 2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_is_that_of_the_engine(family: str) -> None:
    """A prompt whose last token starts a chunk: to the engine it is the question, decided by the same summary."""
    model, firsts = small(family, torch.float64), {}
    criterion = scoped(model)
    for seed in range(3):
        ids = random_ids(7 * CHUNK + 1, seed)
        for threshold in (-torch.inf, *criterion.thresholds.values(), torch.inf):
            with adaptive(model, at(criterion, threshold)):
                [first] = generated(model, [ids], max_new_tokens=1, min_new_tokens=1)[0].tolist()
            rows = [Rows(at(criterion, threshold).built())]
            [answer] = answer_rows(model, ids, len(ids) - 1, rows, WINDOW, 1, [EOS], 1, chunk=CHUNK)
            assert [first] == answer.tokens
            firsts.setdefault(seed, set()).add(first)
    assert max(map(len, firsts.values())) > 1


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_padded_batch_is_its_rows_one_by_one_in_either_cache(family: str) -> None:
    model = small(family, torch.float64)
    criterion = scoped(model)
    alone, runs = one_by_one(model, criterion)
    shares = [row for run in runs for row in run.prompts]
    for cache in ("dynamic", "static"):
        with adaptive(model, criterion) as run:
            together = generated(model, IDS, cache_implementation=cache)
        assert torch.equal(together, alone)
        assert [row.queries for row in run.prompts] == [60, 37, 0]  # tokens behind the first 20 have a bulk
        for found, expected in zip(run.prompts, shares, strict=True):
            assert tuple(found) == pytest.approx(tuple(expected), nan_ok=True)
    assert all(0 < row.head < 1 for row in shares[:2])


def test_rows_of_one_length_are_those_of_each_alone() -> None:
    model, rows = small(dtype=torch.float64), [random_ids(60, seed) for seed in range(3)]
    criterion, shares = scoped(model), []
    for ids in rows:
        with adaptive(model, criterion) as run:
            generated(model, [ids])
        shares += run.prompts
    with adaptive(model, criterion) as run:
        generated(model, rows)
    assert [tuple(row) for row in run.prompts] == [pytest.approx(tuple(row)) for row in shares]
    assert len({row.head for row in shares}) > 1


def logits(model, ids: list[list[int]], criterion=None) -> torch.Tensor:
    """Of prompts of one length; of the dense model without a criterion."""
    with torch.no_grad():
        if criterion is None:
            return model(torch.tensor(ids)).logits
        with adaptive(model, criterion):
            return model(torch.tensor(ids)).logits


@pytest.mark.parametrize("family", ["llama", "llama_mha", "mistral", "qwen2", "qwen3", "gemma3", "phi3"])
def test_with_every_pair_long_the_prompt_is_read_densely(family: str) -> None:
    model = small(family, torch.float64)
    criterion = scoped(model)
    dense = logits(model, IDS[:1])
    torch.testing.assert_close(logits(model, IDS[:1], at(criterion, torch.inf)), dense)
    local = logits(model, IDS[:1], at(criterion, -torch.inf))
    torch.testing.assert_close(local[:, : WINDOW.sink + WINDOW.recent], dense[:, : WINDOW.sink + WINDOW.recent])
    assert not torch.allclose(local[:, -1], dense[:, -1], rtol=1e-2)


@pytest.mark.parametrize("length", [1, 2, 19, 20])
def test_a_prompt_within_the_window_is_read_densely_and_counts_nothing(length: int) -> None:
    model = small(dtype=torch.float64)
    criterion = at(scoped(model), -torch.inf)
    torch.testing.assert_close(logits(model, [IDS[0][:length]], criterion), logits(model, [IDS[0][:length]]))
    with adaptive(model, criterion) as run:
        generated(model, [IDS[0][:length]], max_new_tokens=2, min_new_tokens=2)
    assert [row.queries for row in run.prompts] == [0]


def test_no_query_knows_a_token_behind_it() -> None:
    model = small(dtype=torch.float64)
    criterion, changed = scoped(model), [*IDS[0][:50], *random_ids(30, 9)]
    before, after = logits(model, IDS[:1], criterion), logits(model, [changed], criterion)
    torch.testing.assert_close(before[:, :50], after[:, :50])
    assert not torch.allclose(before[:, 50:], after[:, 50:])


def test_what_follows_a_cache_is_read_densely() -> None:
    model, cache = small(dtype=torch.float64), DynamicCache()
    criterion, ids = at(scoped(model), -torch.inf), torch.tensor(IDS[:1])
    with torch.no_grad(), adaptive(model, criterion) as run:
        model(ids[:, :40], past_key_values=cache)
        found = model(ids[:, 40:], past_key_values=cache).logits
    assert [row.queries for row in run.prompts] == [20]
    cache = DynamicCache()
    with torch.no_grad():
        with adaptive(model, criterion):
            model(ids[:, :40], past_key_values=cache)
        expected = model(ids[:, 40:], past_key_values=cache).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[:, -1], logits(model, IDS[:1], criterion)[:, -1], rtol=1e-2)


def test_prompts_of_a_criterion_for_the_question_are_not_decided() -> None:
    model = small()
    criterion = calibrated(model, "qada")
    assert criterion.chunk is None
    with adaptive(model, criterion) as run:
        generated(model, IDS)
    assert run.prompts == [] and run.sparsity.queries > 0


def test_targets_are_about_what_prompts_and_answers_reach() -> None:
    model = small(dtype=torch.float64)
    criterion = scoped(model)
    assert criterion.chunk == CHUNK
    ids = [tokenizer()(text(70 + 9 * seed, seed)).input_ids for seed in range(3)]
    for target in (0.3, 0.7):
        with adaptive(model, criterion, target) as run:
            generated(model, ids)
        found = [both(*row)[0] for row in zip(run.prompts, run.rows, strict=True)]
        assert sum(found) / 3 == pytest.approx(target, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu_decides_in_single_precision(dtype: torch.dtype) -> None:
    model, generator = small(dtype=dtype), torch.Generator().manual_seed(0)
    criterion = at(scoped(model), 0.0)
    layer = [torch.randn(1, heads, 60, 8, generator=generator).to(dtype) for heads in (4, 2, 2)]
    half, single = (AdaptivePrefill(model, criterion, criterion.built(), [0], 60) for _ in range(2))
    output, expected = half.attend(0, *layer), single.attend(0, *(x.float() for x in layer))
    assert torch.equal(output, expected.to(dtype)) and half.counts.shares() == single.counts.shares()
    assert 0 < half.counts.shares()[0].head < 1


def test_prompts_that_are_no_causal_text_a_row_are_refused() -> None:
    model, tokens = small(), torch.tensor([random_ids(60)])
    criterion, packed = scoped(model), torch.arange(60)[None] % 30
    causal = torch.ones(60, 60, dtype=torch.bool).tril()[None, None]
    uncausal = causal.clone()
    uncausal[:, :, 40, 3] = False
    for given in ({"position_ids": packed}, {"attention_mask": uncausal}):
        with adaptive(model, criterion), pytest.raises(UnsupportedModelError, match="one text a row, causally"):
            model(tokens, **given)
    with torch.no_grad(), adaptive(model, criterion):
        assert torch.equal(model(tokens, attention_mask=causal).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "decode"}, "scope='decode' is unknown; choose one of question, prompt"),
        ({"chunk": 0}, "chunk=0: give a whole number, 1 or more"),
        (
            {"criterion": "lost_output"},
            "without outliers, which lost_output is not; choose criterion='qada', or scope=",
        ),
        ({"criterion": "lost_output_even", "outliers": 0}, "which lost_output_even is not"),
    ],
)
def test_scopes_that_cannot_be_are_refused_before_anything_runs(options: dict, message: str, monkeypatch) -> None:
    monkeypatch.setattr("headscope.inference.calibrate.answer_prompt", None)
    with pytest.raises(ConfigError, match=message):
        calibrated(small(), **{"criterion": "qada", "scope": "prompt", "chunk": CHUNK, **options})


def test_a_criterion_made_by_hand_is_refused_where_the_kernel_does_not_serve_it() -> None:
    model = small()
    by_hand = replace(calibrated(model), chunk=CHUNK)
    with pytest.raises(ConfigError, match="lost_output is not; choose criterion='qada'"), adaptive(model, by_hand):
        pass


def test_a_prompt_that_fails_on_its_way_is_not_counted() -> None:
    model = small(dtype=torch.float64)
    criterion = scoped(model)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with adaptive(model, criterion) as run:
        hook = model.get_decoder().layers[1].register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(torch.tensor(IDS[:1]))
        hook.remove()
        assert not run.prompts
        model(torch.tensor(IDS[:1]))
        assert len(run.prompts) == 1
