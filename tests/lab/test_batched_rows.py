"""Rows of several prompts and criteria in one batch, against each row alone."""

import random
from itertools import islice

import pytest
import torch
from test_lab_evaluation import BUDGET, WINDOW, criteria, run
from tiny_models import EOS, random_ids, tiny_model

from headscope.lab import parts
from headscope.lab.evaluation import Answer, answer_prompts
from headscope.lab.own_cache import own_cache
from headscope.lab.parts import NEVER, _fused, _plain, hiding
from headscope.lab.queries import LayerQueries
from headscope.lab.rows import Rows

PROMPTS = [(random_ids(80 + 7 * seed, seed), 66 + 4 * seed) for seed in range(4)]
"""Contexts and questions of different lengths."""


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_prompts_and_criteria_in_any_batch_and_order_give_each_row_what_it_gets_alone(family: str) -> None:
    model, shuffled = tiny_model(family, torch.float32), random.Random(0)
    alone: dict[tuple[int, int], list[Answer]] = {}
    for _ in range(3):
        batch, order = shuffled.sample(range(4), 3), shuffled.sample(range(5), 5)
        groups = [criteria()[i] for i in order]
        together = answer_prompts(model, [PROMPTS[i] for i in batch], groups, WINDOW, BUDGET, [EOS])
        for prompt, answers in zip(batch, together, strict=True):
            rows = iter(answers)
            for criterion, group in zip(order, groups, strict=True):
                key = prompt, criterion
                if key not in alone:
                    single = [Rows(group.criterion.take(torch.tensor([row]))) for row in range(group.count)]
                    alone[key] = [run(model, [row], *PROMPTS[prompt])[0] for row in single]
                assert list(islice(rows, group.count)) == alone[key]


def test_prompts_leave_the_batch_when_their_rows_have_stopped() -> None:
    model = tiny_model("llama_mha")
    together = answer_prompts(model, PROMPTS, criteria(), WINDOW, BUDGET, [EOS])
    assert together == [run(model, criteria(), *prompt) for prompt in PROMPTS]
    longest = [max(len(answer.tokens) for answer in answers) for answers in together]
    stops = {answer.stop for answers in together for answer in answers}
    assert stops == {"eos", "length"} and len({len(a.tokens) for answers in together for a in answers}) > 2
    assert max(longest) == BUDGET


def test_all_pairs_at_once_as_on_a_gpu_give_what_chosen_pairs_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    chosen = run(model, criteria())
    monkeypatch.setattr(LayerQueries, "_lazy", False)
    monkeypatch.setattr(parts, "_fused", _plain)
    assert run(model, criteria()) == chosen


@pytest.mark.parametrize("hidden", [None, (1, 1), (1, 6), (2, 6)], ids=str)
def test_attention_over_a_part_is_that_of_the_definitions(hidden: tuple[int, int] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(2, n, 8, generator=generator, dtype=torch.float64) for n in (12, 9, 9))
    scores, seen = query @ keys.transpose(1, 2) * 0.3, None
    if hidden is not None:
        visible = torch.rand(hidden[0], 1, hidden[1], 9, generator=generator) < 0.6
        visible[..., -1, :] &= hidden[1] == 1  # the last of several queries sees nothing
        seen = hiding(visible, torch.float64)
        scores = scores.view(2, -1, hidden[1], 9).masked_fill(~visible, -torch.inf).view(2, 12, 9)
    known = ~scores.isneginf().all(-1)
    assert known.all() == (hidden is None or hidden[1] == 1)
    for way in (_fused, _plain):
        part = way(query, keys, values, seen, 0.3)
        torch.testing.assert_close(part.mass[known], scores.logsumexp(-1)[known])
        torch.testing.assert_close(part.output[known], (scores.softmax(-1) @ values)[known])
        assert (part.mass[~known] < NEVER / 2).all() and part.output.isfinite().all()


def test_two_parts_joined_are_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    query, keys, values = (torch.randn(2, n, 8, generator=generator, dtype=torch.float64) for n in (5, 9, 9))
    first, second = (_plain(query, keys[:, s], values[:, s], None, 0.3) for s in (slice(4), slice(4, None)))
    torch.testing.assert_close(first.joined(second), _plain(query, keys, values, None, 0.3))
    nothing = parts.Part(torch.full_like(first.mass, NEVER), torch.ones_like(first.output))
    torch.testing.assert_close(first.joined(nothing), first)


def test_the_own_cache_holds_what_transformers_cache_holds() -> None:
    from transformers import DynamicCache

    ours, theirs = own_cache(), DynamicCache()
    for count in (5, 1, 1, 9, 30, 1):
        new = torch.randn(2, ours.layers[0].keys.shape[0] if ours.layers else 4, 2, count, 8)
        for place, pair in enumerate(zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True)):
            assert torch.equal(*pair), place
        if count == 9:
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor([0, 2]))
