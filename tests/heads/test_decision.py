"""Labels from margins: of heads, and of groups whose heads lose together."""

import pytest
import torch

from headscope.heads.decision import LOSS, SHARE, group_margins, is_long

INF, NAN = torch.inf, torch.nan


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_undecided_pair_reads_the_bulk_and_a_tie_does_not() -> None:
    margin = torch.tensor([[[NAN], [1.0], [0.999]]])
    assert is_long(margin, torch.tensor([1.0]))[0, :, 0].tolist() == [True, False, True]


@pytest.mark.parametrize("group", range(1, 9))
def test_lost_outputs_of_a_group_add_up_as_squares(group: int) -> None:
    margin = draw(2, 3 * group, 5)
    losses = (-margin).exp().view(2, 3, group, 5)
    expected = -losses.square().sum(2, keepdim=True).sqrt().log()
    together = group_margins(margin, 3, LOSS, 1)
    torch.testing.assert_close(together, expected.expand(-1, -1, group, -1).flatten(1, 2))


@pytest.mark.parametrize("group", range(1, 9))
def test_the_share_of_a_group_is_the_mean_of_its_heads(group: int) -> None:
    margin = draw(2, 3 * group, 5)
    share = margin.sigmoid().view(2, 3, group, 5).mean(2, keepdim=True)
    together = group_margins(margin, 3, SHARE, 1)
    torch.testing.assert_close(together.sigmoid(), share.expand(-1, -1, group, -1).flatten(1, 2))


@pytest.mark.parametrize("measures", [SHARE, LOSS, None])
@pytest.mark.parametrize(("heads", "expected"), [([INF, INF], INF), ([-INF, -INF], -INF), ([NAN, 0.0], NAN)])
def test_certain_heads_make_a_certain_group(measures: str | None, heads: list[float], expected: float) -> None:
    together = group_margins(torch.tensor(heads).view(1, 2, 1), 1, measures, 1)
    torch.testing.assert_close(together, torch.full((1, 2, 1), expected), equal_nan=True)


def test_a_group_of_labels_is_long_if_any_head_is() -> None:
    margin = torch.tensor([INF, -INF, INF, INF]).view(1, 4, 1)
    assert group_margins(margin, 2, None, 1)[0, :, 0].tolist() == [-INF, -INF, INF, INF]


@pytest.mark.parametrize("measures", [SHARE, LOSS, None])
def test_a_group_of_one_head_decides_as_the_head(measures: str | None) -> None:
    margin = draw(1, 4, 6) * 3
    torch.testing.assert_close(group_margins(margin, 4, measures, 1), margin)
