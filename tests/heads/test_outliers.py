"""Which keys are outliers, and what is left of the bulk without them."""

import layers
import pytest
import torch

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk, LayerCache, Probes
from headscope.heads.outliers import OutlierRule, allotted, importance

RULES = ["probe_attention", "last_queries", "recent"]


def choose(rule: str, bulk: Bulk, count: int) -> torch.Tensor:
    """Positions of a layer's outliers where KV heads have as many, [K, M]."""
    ((_, marks),) = OutlierRule(rule, count).marked([bulk])
    return bulk.index[marks].view(len(bulk.index), -1)


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_bulk_has_no_outliers(rule: str) -> None:
    bulk = layers.bulk(first=16, last=10)
    assert bulk.keys.shape == (2, 0, 8)
    assert choose(rule, bulk, 4).shape == (2, 0)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_chooses_distinct_bulk_keys_in_order(rule: str) -> None:
    chosen = choose(rule, layers.bulk(), 6)
    assert chosen.shape == (2, 6)
    assert (chosen.diff(dim=1) > 0).all() and chosen.min() >= 4 and chosen.max() < 50
    assert torch.equal(chosen, choose(rule, layers.bulk(), 6))
    assert choose(rule, layers.bulk(), 100).tolist() == [list(range(4, 50))] * 2


@pytest.mark.parametrize("rule", RULES)
def test_importance_of_half_precision_keys_is_that_of_their_float_copies(rule: str) -> None:
    half = layers.bulk(dtype=torch.bfloat16)
    cache = half.cache
    probes = Probes(cache.probes.queries.float(), cache.probes.weight.float())
    floats = (part.float() for part in (cache.keys, cache.values))
    whole = Bulk(LayerCache(1, *floats, cache.scale, probes, cache.queries.float()), half.index)
    torch.testing.assert_close(importance(rule, half), importance(rule, whole))


def test_probe_attention_is_what_the_probes_would_add() -> None:
    bulk = layers.bulk()
    cache, found = bulk.cache, importance("probe_attention", bulk)
    for kv in range(2):
        values = cache.values[kv, 4:50]
        added = (values - values.mean(0)).norm(dim=-1)
        seen = torch.zeros(46, dtype=torch.float64)
        for head in range(3 * kv, 3 * kv + 3):
            scores = cache.probes.queries[head] @ cache.keys[kv].T * layers.SCALE
            seen += cache.probes.weight[head] * scores.softmax(-1).mean(0)[4:50]
        torch.testing.assert_close(found[kv].double(), (seen * added).log(), rtol=1e-4, atol=1e-4)


def test_a_rule_that_needs_probes_says_so() -> None:
    with pytest.raises(ConfigError, match="need probes"):
        importance("probe_attention", layers.bulk(probes=0))


def test_a_key_that_is_not_a_number_is_chosen_last() -> None:
    cache = layers.layer(60)
    cache.values[0, 10] = torch.nan
    found = Bulk(LayerCache(1, cache.keys, cache.values, cache.scale, cache.probes), layers.bulk().index)
    assert torch.isnan(importance("probe_attention", found)[0]).all()  # the mean value is lost with it
    assert choose("probe_attention", found, 2).shape == (2, 2)


def test_last_queries_choose_what_they_attend_to_and_its_neighbours() -> None:
    found = layers.bulk()
    cache = found.cache
    attention = torch.zeros(2, 60, dtype=torch.float64)
    for head in range(6):
        for back in range(6):  # the queries stand at positions 54 to 59 and see nothing later
            scores = cache.keys[head // 3, : 55 + back].double() @ cache.queries[head, back].double() * layers.SCALE
            attention[head // 3, : 55 + back] += scores.softmax(0)
    pooled = torch.stack([attention[:, max(0, j - 3) : j + 4].amax(1) for j in range(60)], 1)
    torch.testing.assert_close(importance("last_queries", found).double(), pooled[:, 4:50], rtol=1e-5, atol=1e-6)


def test_shared_outliers_are_the_most_important_of_all_heads_behind_those_of_each() -> None:
    importances = [torch.tensor([[9.0, 8, 7, 6], [1, 2, 3, 4]]), torch.tensor([[5.0, 5, 5, 5], [0, 0, 9, 0]])]
    assert [counts.tolist() for counts in allotted(importances, 2, 0)] == [[4, 0], [3, 1]]  # the earlier of equals
    assert [counts.tolist() for counts in allotted(importances, 2, 1)] == [[4, 1], [2, 1]]
    assert [counts.tolist() for counts in allotted(importances, 2, 2)] == [[2, 2], [2, 2]]
    assert [counts.tolist() for counts in allotted(importances, 9, 2)] == [[4, 4], [4, 4]]
    unknown = [torch.tensor([[torch.nan, 1.0], [torch.nan, torch.nan]])]
    assert allotted(unknown, 1, 0)[0].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("count", "part", "least"), [(6, 1, 0), (6, 0.5, 3), (6, 0.05, 6), (46, 0.9, 5), (100, 0.5, 50)]
)
def test_heads_that_share_have_their_own_most_important_keys_and_as_many_in_the_mean(
    count: int, part: float, least: int
) -> None:
    bulks = [layers.bulk(), layers.bulk(dtype=torch.bfloat16)]
    marked = list(OutlierRule("probe_attention", count, shared=part).marked(bulks))
    sizes = torch.stack([marks.sum(1) for _, marks in marked])
    assert sizes.double().mean() == min(count, 46) and sizes.min() >= min(least, 46)
    for bulk, (same, marks) in zip(bulks, marked, strict=True):
        assert same is bulk
        for head in range(2):
            expected = choose("probe_attention", bulk, int(marks[head].sum()))[head]
            assert torch.equal(bulk.index[head, marks[head]], expected)
    if least == count:
        assert (sizes == count).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [0, 5, 100])
def test_heads_that_do_not_share_have_their_most_important_keys(rule: str, count: int) -> None:
    bulk = layers.bulk()
    ((same, marks),) = OutlierRule(rule, count).marked([bulk])
    assert same is bulk and marks.sum(1).tolist() == [min(count, 46)] * 2
    importances = importance(rule, bulk)
    if 0 < count < 46:
        least = importances.masked_fill(~marks, torch.inf).amin(1)
        assert (least >= importances.masked_fill(marks, -torch.inf).amax(1)).all()


@pytest.mark.parametrize("rule", RULES)
def test_the_bulk_of_one_head_is_its_part_of_the_whole(rule: str) -> None:
    bulk = layers.bulk()
    for head in range(2):
        one = layers.of_head(bulk, head)
        assert torch.equal(one.keys[0], bulk.keys[head]) and torch.equal(one.values[0], bulk.values[head])
        torch.testing.assert_close(importance(rule, one)[0], importance(rule, bulk)[head])
