"""Summaries that stream: each row's take in the keys that leave its window, forward after forward."""

import pytest
import torch
from tiny_models import EOS, random_ids, tiny_model

from headscope.heads.boundary_state import make_boundary_state
from headscope.heads.bulk import Bulk, LayerCache
from headscope.heads.criteria import build
from headscope.heads.estimators import build as build_estimator
from headscope.heads.outliers import OutlierRule
from headscope.heads.window import Window
from headscope.lab.evaluation import answer_rows
from headscope.lab.margins import margins
from headscope.lab.rows import Rows
from headscope.lab.shared_prefix import SharedPrefix
from headscope.models.attention import LayerCall

WINDOW, IDS, BOUNDARY = Window(sink=4, recent=16), random_ids(80), 66
ESTIMATORS = {
    "gaussian": {"kind": "gaussian", "name": "g", "covariance": "full", "moments": "prompt"},
    "clusters": {"kind": "clusters", "name": "c", "clusters": 4, "covariance": "full", "bits": 8},
}


def rows(estimator: str, summaries: str, outliers: OutlierRule, *thresholds: float) -> Rows:
    spec = {"kind": "lost_output", "summaries": summaries}
    targets = [{"threshold": threshold} for threshold in thresholds]
    return Rows(build(spec, targets, build_estimator(ESTIMATORS[estimator], {})), outliers)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_each_row_updates_its_own_summary_with_the_keys_behind_its_window(estimator: str) -> None:
    prefix = LayerCache(0, draw(2, 40, 8, seed=1), draw(2, 40, 8, seed=2))
    group, active = rows(estimator, "streaming", OutlierRule(), 0.0, 0.5, 1.0), torch.arange(3)
    shared, built = SharedPrefix([prefix], [group], WINDOW), group.criterion.estimator
    query, keys, values = (draw(3, heads, 8, 8, seed=seed) for heads, seed in ((4, 3), (2, 4), (2, 5)))
    for first, end in ((0, 5), (5, 6), (6, 7), (7, 8)):
        own = keys[active, :, :end], values[active, :, :end]
        shared.attend(LayerCall(0, query[active, :, first:end], *own, 0.3, None))
        if end == 6:
            active = torch.tensor([0, 2])
            shared.keep(active)
    (stream,) = shared._streams[0].values()
    bulk = Bulk.between(prefix, *WINDOW.summarised(40))
    none = torch.zeros_like(bulk.index, dtype=torch.bool)
    start = make_boundary_state(bulk, none, 2, 16, [built]).summaries
    for place, row in enumerate(active.tolist()):
        pairs = ((prefix.keys, keys), (prefix.values, values))
        whole = [torch.cat([before, own[row]], 1) for before, own in pairs]
        summary, known = start.of[built.name], 24
        for end in (25, 30, 31, 32):  # where the windows of the queries 40, 45, 46 and 47 begin
            summary, known = built.update(summary, *(x[:, known:end] for x in whole)), end
        later, size = draw(1, 4, 1, 8, seed=99), torch.tensor([28])
        alone = stream.take(torch.tensor([place])).of[built.name]
        torch.testing.assert_close(built.log_mass(later, alone, size, 0.3), built.log_mass(later, summary, size, 0.3))


@pytest.mark.parametrize("outliers", [OutlierRule(), OutlierRule("recent", 6, bits=4)], ids=["plain", "outliers"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rows_together_answer_as_each_alone(estimator: str, outliers: OutlierRule) -> None:
    model = tiny_model("llama")
    group = rows(estimator, "streaming", outliers, -0.5, 0.0, 0.7)
    frozen = rows(estimator, "frozen", outliers, -0.5, 0.0, 0.7)
    together = answer_rows(model, IDS, BOUNDARY, [frozen, group], WINDOW, 40, [EOS], 40)
    alone = [
        answer_rows(model, IDS, BOUNDARY, [group.take(torch.tensor([row]))], WINDOW, 40, [EOS], 40)[0]
        for row in range(3)
    ]
    assert [answer.tokens for answer in together[3:]] == [answer.tokens for answer in alone]
    assert [answer.sparsity for answer in together[3:]] == pytest.approx([answer.sparsity for answer in alone])
    assert any(x.sparsity != y.sparsity for x, y in zip(together[:3], together[3:], strict=True))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_margins_that_are_fitted_are_those_of_generation(estimator: str) -> None:
    """In the first layer, whose states no criterion changes, recorded margins give the labels of decoding."""
    model = tiny_model("llama")
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:1], 1
    group = rows(estimator, "streaming", OutlierRule(), 0.0)
    (answer,) = answer_rows(model, IDS, BOUNDARY, [group], WINDOW, 30, [EOS], 30)
    fed = answer.tokens[:-1]
    ((layer,),) = (m.values() for m in margins(model, [*IDS, *fed], BOUNDARY, [group], WINDOW, None, len(IDS)))
    assert answer.sparsity == pytest.approx((layer.margin >= 0).double().mean().item())
    assert 0 < answer.sparsity < 1
