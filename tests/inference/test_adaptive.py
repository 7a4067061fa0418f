"""Generation under a calibrated criterion, against the dense model, the engine and itself."""

import pytest
import torch
from adaptive_cases import IDS, NEW, WINDOW, at, calibrated, generated, one_by_one, small
from tiny_models import EOS, random_ids
from torch._dynamo.exc import Unsupported
from transformers import CompileConfig, DynamicCache, GenerationConfig

from headscope import adaptive
from headscope.heads.criteria import build
from headscope.lab.evaluation import answer_rows
from headscope.lab.rows import Rows

FAMILIES = ["llama", "llama_mha", "mistral", "qwen2", "qwen3", "gemma3", "phi3"]
RECIPES = ["lost_output", "lost_output_even", "lost_output_gaussian", "qada"]


@pytest.mark.parametrize("family", FAMILIES)
def test_with_every_head_long_the_tokens_are_the_models_own(family: str) -> None:
    model = small(family)
    criterion = at(calibrated(model), torch.inf)
    for options in ({}, {"do_sample": True, "num_return_sequences": 2, "top_k": 5}):
        torch.manual_seed(1)
        expected = generated(model, IDS, **options)
        torch.manual_seed(1)
        with adaptive(model, criterion) as run:
            found = generated(model, IDS, **options)
        assert torch.equal(found, expected)
        assert run.sparsity.head == run.sparsity.group == 0 and run.sparsity.queries > 0


def as_the_engine(model, ids: list[int], criterion, rows: Rows):
    """Tokens and sparsity of the engine, which decides from the first generated token on too."""
    [first] = generated(model, [ids], max_new_tokens=1, min_new_tokens=1)[0].tolist()
    given = [*ids, first], len(ids), [rows], WINDOW, NEW - 1, [EOS], NEW - 1
    [answer] = answer_rows(model, *given, criterion.probes)
    return [first, *answer.tokens], (answer.sparsity, answer.sparsity_group, answer.kv_bytes, answer.queries)


def test_with_every_head_local_the_tokens_are_those_of_the_window_alone() -> None:
    model = small(dtype=torch.float64)
    criterion = at(calibrated(model, "qada"), -torch.inf)
    with adaptive(model, criterion) as run:
        found = generated(model, IDS[:1])[0].tolist()
    expected, counts = as_the_engine(model, IDS[0], criterion, Rows(build({"kind": "local"}, [{}], None)))
    shares, (head, group, kv_bytes, queries) = run.sparsity, counts
    assert found == expected and (shares.head, shares.group, shares.queries) == (head, group, queries) == (
        1,
        1,
        NEW - 1,
    )
    assert shares.kv_bytes > kv_bytes  # a summary is read beside the window
    assert found != generated(model, IDS[:1])[0].tolist()


@pytest.mark.parametrize("summaries", ["frozen", "streaming"])
@pytest.mark.parametrize("unit", ["head", "group"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_tokens_labels_and_bytes_are_those_of_the_lab(family: str, recipe: str, unit: str, summaries: str) -> None:
    model, total = small(family, torch.float64), 0
    criterion = calibrated(model, recipe, unit=unit, summaries=summaries)
    for target in criterion.thresholds:
        with adaptive(model, criterion, target) as run:
            found = generated(model, IDS[:1])[0].tolist()
        rows = Rows(criterion.built(target), criterion.recipe.outliers)
        expected, counts = as_the_engine(model, IDS[0], criterion, rows)
        assert found == expected and tuple(run.sparsity) == pytest.approx(counts, rel=1e-12)
        assert unit == "head" or run.sparsity.head == run.sparsity.group
        total += counts[0]
    assert 0 < total < 2


@pytest.mark.parametrize("recipe", ["lost_output", "qada"])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_padded_batch_is_its_rows_one_by_one_in_either_cache(recipe: str, family: str) -> None:
    model = small(family, torch.float64)
    criterion = calibrated(model, recipe)
    alone, runs = one_by_one(model, criterion)
    shares = [row for run in runs for row in run.rows]
    for cache in ("dynamic", "static"):
        with adaptive(model, criterion) as run:
            together = generated(model, IDS, cache_implementation=cache)
        assert torch.equal(together, alone)
        assert [row.queries for row in run.rows] == [NEW - 1, NEW - 1, NEW - 9]  # 12 tokens have a bulk from 21 on
        assert [tuple(row) for row in run.rows] == [pytest.approx(tuple(row)) for row in shares]
        assert 0 < run.sparsity.head < 1


def test_a_key_that_leaves_the_window_joins_a_cluster_of_its_row() -> None:
    model = small()
    with adaptive(model, calibrated(model, summaries="streaming")) as run:
        generated(model, IDS[:2])
        rows = run._decoding._rows
    for row, ids in zip(rows, IDS[:2], strict=True):
        outside = len(ids) - WINDOW.sink - WINDOW.recent + NEW - 1
        for stream in row._streams[0].values():
            (summary,) = stream.of.values()
            count = summary.size.sum(-1) + torch.as_tensor(stream.outliers).expand(4, 1)[::2, 0]
            assert count.tolist() == [outside, outside]


def test_compiled_decoding_is_the_same_and_ends_with_the_block() -> None:
    model = small()
    criterion = calibrated(model)
    dense, compiled = generated(model, IDS), CompileConfig(backend="eager", mode=None)
    compiled._compile_all_devices = True
    for target in (0.3, 0.7, 0.3):
        with adaptive(model, criterion, target) as run:
            expected, shares = generated(model, IDS), run.sparsity
        with adaptive(model, criterion, target) as run:
            found = generated(model, IDS, cache_implementation="static", compile_config=compiled)
        assert torch.equal(found, expected) and run.sparsity == shares
        assert torch.equal(generated(model, IDS, cache_implementation="static", compile_config=compiled), dense)


def test_one_graph_for_all_is_refused_by_name() -> None:
    torch._dynamo.reset()  # else pieces that were compiled before serve
    model = small()
    whole = CompileConfig(backend="eager", mode=None, fullgraph=True)
    whole._compile_all_devices = True
    with adaptive(model, calibrated(model)), pytest.raises(Unsupported, match="compile with fullgraph=False"):
        generated(model, IDS, cache_implementation="static", compile_config=whole)


def test_embeddings_may_be_given_and_stop_tokens_unknown() -> None:
    model = small()
    criterion, tokens = calibrated(model), torch.tensor(IDS[:1])
    model.generation_config.eos_token_id = None
    with adaptive(model, criterion) as run:
        expected, rows = generated(model, IDS[:1]), run.rows
    with adaptive(model, criterion) as run:
        given = {"inputs_embeds": model.get_input_embeddings()(tokens), "attention_mask": torch.ones_like(tokens)}
        found = model.generate(**given, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert torch.equal(found, expected) and run.rows == rows


def _by_the_call(model, stop):
    return {"eos_token_id": [EOS, stop]}


def _by_a_config_of_the_call(model, stop):
    return {"generation_config": GenerationConfig(eos_token_id=[EOS, stop], pad_token_id=0, do_sample=False)}


def _by_the_model(model, stop):
    model.generation_config.eos_token_id = [EOS, stop]
    return {}


@pytest.mark.parametrize("given", [_by_the_call, _by_a_config_of_the_call, _by_the_model])
def test_a_row_counts_until_it_is_fed_a_stop_token(given) -> None:
    model = small()
    criterion = calibrated(model)
    with adaptive(model, criterion):
        stop = generated(model, IDS[:2])[0, 7].item()
    options = given(model, stop)
    with adaptive(model, criterion) as run:
        tokens = generated(model, IDS[:2], min_new_tokens=None, **options)
    for ids, row in zip(tokens[:, :-1].tolist(), run.rows, strict=True):
        assert row.queries == next((i for i, token in enumerate(ids) if token in (EOS, stop)), len(ids))
    assert run.rows[0].queries <= 7 < run.rows[1].queries


def test_a_next_turn_is_dense_and_makes_a_boundary_of_its_own() -> None:
    model, cache = small(), DynamicCache()
    criterion = calibrated(model)
    with adaptive(model, criterion) as run:
        first = generated(model, IDS[:1], past_key_values=cache)[0].tolist()
        again = [*IDS[0], *first, *random_ids(30, 9)]
        turn = generated(model, [again], past_key_values=cache)
    assert [row.queries for row in run.rows] == [NEW - 1] * 2
    with adaptive(model, at(criterion, torch.inf)):
        cache = DynamicCache()
        first = generated(model, IDS[:1], past_key_values=cache)[0].tolist()
        long = [*IDS[0], *first, *random_ids(30, 9)]
        assert torch.equal(generated(model, [long], past_key_values=cache), generated(model, [long]))
    assert turn.shape == (1, NEW)


def test_a_context_may_be_read_before_the_block() -> None:
    model, cache = small(), DynamicCache()
    criterion = calibrated(model)
    with adaptive(model, criterion) as run:
        expected, shares = generated(model, IDS[:1]), run.rows
    model(torch.tensor([IDS[0][:-1]]), past_key_values=cache)
    with adaptive(model, criterion) as run:
        model(torch.tensor([IDS[0][-1:]]), past_key_values=(early := DynamicCache()))
        assert early.get_seq_length() == 1 and not run.rows  # a first token has nothing to decide about
    model(torch.tensor([IDS[0][-1:]]), past_key_values=cache)
    token, found = expected[0, :1], [expected[0, 0].item()]
    with adaptive(model, criterion) as run, torch.no_grad():
        for _ in range(NEW - 1):
            token = model(token[None], past_key_values=cache).logits[0, -1:].argmax(-1)
            found.append(token.item())
    assert found == expected[0].tolist() and run.rows == shares


def test_a_last_prompt_token_that_is_fed_alone_is_decided_and_counted() -> None:
    model, cache = small(), DynamicCache()
    criterion = calibrated(model)
    with adaptive(model, at(criterion, -torch.inf)) as run, torch.no_grad():
        model(torch.tensor([IDS[0][:-1]]), past_key_values=cache)
        alone = model(torch.tensor([IDS[0][-1:]]), past_key_values=cache).logits[:, -1]
        dense = model(torch.tensor(IDS[:1]), past_key_values=DynamicCache()).logits[:, -1]
    assert [(row.queries, row.head) for row in run.rows] == [(1, 1.0)] and not torch.allclose(alone, dense)


def test_candidates_of_assisted_decoding_are_checked_densely() -> None:
    model = small()
    criterion, ids = at(calibrated(model), torch.inf), [random_ids(20) * 4]
    expected = generated(model, ids)
    with adaptive(model, criterion):
        assert torch.equal(generated(model, ids, prompt_lookup_num_tokens=3), expected)
