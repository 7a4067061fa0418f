"""Which keys are outliers, and what is left of the bulk without them."""

import layers
import pytest
import torch

from headscope.errors import ConfigError
from headscope.heads.bulk import Bulk, LayerCache, Probes
from headscope.heads.outliers import OutlierRule, allotted, choose, importance

RULES = ["mahalanobis", "query_metric", "probe_attention", "value_norm", "last_queries", "recent", "random"]


def test_a_bulk_without_some_keys_is_the_others_in_order() -> None:
    bulk = layers.bulk()
    chosen = torch.tensor([[4, 10, 49], [5, 6, 7]])
    rest = bulk.without(chosen)
    for head in range(2):
        kept = [position for position in range(4, 50) if position not in chosen[head].tolist()]
        assert rest.index[head].tolist() == kept
        torch.testing.assert_close(rest.keys[head], bulk.cache.keys[head, kept], rtol=0, atol=0)
        torch.testing.assert_close(rest.values[head], bulk.cache.values[head, kept], rtol=0, atol=0)


def test_an_empty_bulk_has_no_outliers() -> None:
    bulk = layers.bulk(first=16, last=10)
    assert bulk.keys.shape == (2, 0, 8)
    assert choose(["mahalanobis"], bulk, 4).shape == (2, 0)
    assert bulk.without(choose(["recent"], bulk, 4)).index.shape == (2, 0)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_chooses_distinct_bulk_keys_in_order(rule: str) -> None:
    chosen = choose([rule], layers.bulk(), 6)
    assert chosen.shape == (2, 6)
    assert (chosen.diff(dim=1) > 0).all() and chosen.min() >= 4 and chosen.max() < 50
    assert torch.equal(chosen, choose([rule], layers.bulk(), 6))
    assert choose([rule], layers.bulk(), 100).tolist() == [list(range(4, 50))] * 2


@pytest.mark.parametrize("rule", RULES)
def test_importance_of_half_precision_keys_is_that_of_their_float_copies(rule: str) -> None:
    half = layers.bulk(dtype=torch.bfloat16)
    cache = half.cache
    probes = Probes(cache.probes.queries.float(), cache.probes.weight.float())
    floats = (part.float() for part in (cache.keys, cache.values))
    whole = Bulk(LayerCache(1, *floats, cache.scale, probes, cache.queries.float()), half.index)
    torch.testing.assert_close(importance(rule, half), importance(rule, whole))


def test_mahalanobis_finds_the_key_that_is_far_for_its_direction() -> None:
    cache = layers.layer(60)
    keys = cache.keys.clone()
    keys[..., 0] *= 100
    keys[:, 20, 1] += 15  # near in plain distance: the first dimension is much wider
    found = Bulk.between(LayerCache(1, keys, cache.values), 4, 50)
    assert choose(["mahalanobis"], found, 1).tolist() == [[20], [20]]
    centred = keys[0, 4:50] - keys[0, 4:50].mean(0)
    inverse = torch.linalg.inv(centred.T @ centred / 46)
    expected = torch.einsum("nd,de,ne->n", centred, inverse, centred)
    torch.testing.assert_close(importance("mahalanobis", found)[0], expected, rtol=0.05, atol=0.05)


def test_equal_keys_have_no_distance_and_the_first_are_chosen() -> None:
    cache = LayerCache(1, torch.ones(2, 30, 8), torch.ones(2, 30, 8))
    assert choose(["mahalanobis"], Bulk.between(cache, 4, 20), 3).tolist() == [[4, 5, 6]] * 2


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


def test_query_metric_is_the_mean_square_of_centred_scores() -> None:
    bulk = layers.bulk()
    centred = bulk.keys - bulk.keys.mean(1, keepdim=True)
    scores = [centred[head // 3] @ bulk.cache.probes.queries[head].T for head in range(6)]
    expected = torch.stack([torch.cat(scores[3 * kv : 3 * kv + 3], 1).square().mean(1) for kv in range(2)])
    torch.testing.assert_close(importance("query_metric", bulk).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", ["query_metric", "probe_attention"])
def test_a_rule_that_needs_probes_says_so(rule: str) -> None:
    with pytest.raises(ConfigError, match="needs probes"):
        importance(rule, layers.bulk(probes=0))


def test_two_rules_choose_in_turn() -> None:
    bulk = layers.bulk()
    far = importance("mahalanobis", bulk).argsort(dim=1, descending=True)[:, :3] + 4
    both = choose(["recent", "mahalanobis"], bulk, 6)
    for kv in range(2):
        assert {49, 48, 47} | set(far[kv].tolist()) == set(both[kv].tolist())
    assert choose(["recent", "mahalanobis"], bulk, 1).tolist() == [[49], [49]]


def test_random_keys_differ_between_layers_and_heads() -> None:
    cache = layers.layer(60)
    first = choose(["random"], Bulk.between(cache, 4, 50), 8)
    other = choose(["random"], Bulk.between(LayerCache(2, cache.keys, cache.values), 4, 50), 8)
    assert first[0].tolist() != first[1].tolist() and not torch.equal(first, other)


def test_a_key_that_is_not_a_number_is_chosen_last() -> None:
    cache = layers.layer(60)
    cache.values[0, 10] = torch.nan
    found = Bulk(LayerCache(1, cache.keys, cache.values, cache.scale, cache.probes), layers.bulk().index)
    assert torch.isnan(importance("probe_attention", found)[0]).all()  # the mean value is lost with it
    assert choose(["probe_attention", "recent"], found, 2).shape == (2, 2)


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


def test_large_values_come_first() -> None:
    cache = layers.layer(60)
    cache.values[1, 33] *= 100
    assert choose(["value_norm"], Bulk.between(cache, 4, 50), 1)[1].tolist() == [33]


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
    marked = list(OutlierRule(("probe_attention",), count, shared=part).marked(bulks))
    sizes = torch.stack([marks.sum(1) for _, marks in marked])
    assert sizes.double().mean() == min(count, 46) and sizes.min() >= min(least, 46)
    for bulk, (same, marks) in zip(bulks, marked, strict=True):
        assert same is bulk
        for head in range(2):
            expected = choose(["probe_attention"], bulk, int(marks[head].sum()))[head]
            assert torch.equal(bulk.index[head, marks[head]], expected)
    if least == count:
        assert (sizes == count).all()


@pytest.mark.parametrize("rules", [("recent",), ("value_norm", "mahalanobis")])
@pytest.mark.parametrize("count", [0, 5, 100])
def test_heads_that_do_not_share_have_those_chosen_for_the_layer(rules: tuple[str, ...], count: int) -> None:
    bulk = layers.bulk()
    ((same, marks),) = OutlierRule(rules, count).marked([bulk])
    assert same is bulk and torch.equal(bulk.index[marks].view(2, -1), choose(rules, bulk, count))


@pytest.mark.parametrize("rule", RULES)
def test_the_bulk_of_one_head_is_its_part_of_the_whole(rule: str) -> None:
    bulk = layers.bulk()
    for head in range(2):
        one = bulk.of_head(head)
        assert torch.equal(one.keys[0], bulk.keys[head]) and torch.equal(one.values[0], bulk.values[head])
        if rule != "random":  # its numbers are drawn for the whole layer
            torch.testing.assert_close(importance(rule, one)[0], importance(rule, bulk)[head])
