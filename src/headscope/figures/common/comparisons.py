"""Tables of paired comparisons, whose intervals are corrected for their number, and what breaks the expected order.

Shapes: B resamples, C columns (criterion, target) of `scores.Scores`.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from headscope.figures.common import bootstrap, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.scores import Scores


class Comparison(NamedTuple):
    """A paired difference: what identifies its row in the table, and its value in the data and resamples, [1 + B]."""

    row: dict[str, Any]
    draws: Floats


def judged(comparisons: Sequence[Comparison], value: str) -> pd.DataFrame:
    """Return the table of comparisons with their intervals and verdicts; `value` names the column of the difference."""
    if not comparisons:
        return pd.DataFrame()
    estimates = bootstrap.holm(np.column_stack([comparison.draws for comparison in comparisons]))
    table = pd.DataFrame([comparison.row for comparison in comparisons])
    table = table.assign(**{value: estimates.value, "low": estimates.low, "high": estimates.high})
    verdicts = np.select([table["low"] > 0, table["high"] < 0], ["better", "worse"], "inconclusive")
    return table.assign(verdict=np.where(table[value].isna(), "missing", verdicts))


def along_curves(sampled: Scores, where: dict[str, Any]) -> Iterator[Comparison]:
    """Compare each two points of a criterion's curve, and each point with dense, in shares of the dense score.

    Each difference is the score of the point that reads fewer KV bytes less that of the point that reads more, so a
    positive one breaks the expected order: more was read, and the answers are worse.

    Args:
        sampled: scores of the tasks to average over, dense among them.
        where: what else identifies the rows.
    """
    scores, kv_bytes = sampled.weights @ sampled.values, sampled.weights[0] @ sampled.kv_bytes
    dense = sampled.columns.index(("dense", 0.0))
    for one, other in combinations(range(len(sampled.columns)), 2):
        if dense not in (one, other) and sampled.columns[one][0] != sampled.columns[other][0]:
            continue
        less, more = sorted((one, other), key=lambda column: kv_bytes[column])
        if np.isclose(kv_bytes[less], kv_bytes[more]):
            continue
        (criterion, target), (versus, versus_target) = sampled.columns[less], sampled.columns[more]
        row = {"criterion": criterion, "target": target, "versus": versus, "versus_target": versus_target}
        share = scores[0, dense] or np.nan  # of 0 there is no share
        yield Comparison({**where, **row}, (scores[:, less] - scores[:, more]) / share)


def out_of_order(table: pd.DataFrame, names: Sequence[str], most: int) -> list[str]:
    """Name the pairs of `along_curves` whose interval shows the order broken, the largest differences first.

    Args:
        table: judged comparisons; `share` is the difference, `mean` and `length` say of what.
        names: all criteria of the figure.
        most: pairs to name; the others are counted.
    """
    if table.empty:
        return []
    broken = table[table["verdict"] == "better"].sort_values("share", ascending=False, kind="stable")
    lines = [_sentence(row, names) for row in style.records(broken.head(most))]
    rest = len(broken) - len(lines)
    return [*lines, f"Out of order, too: {style.plural(rest, 'pair')} of the table."] if rest else lines


def _sentence(row: Any, names: Sequence[str]) -> str:
    less, more = (
        style.look(name, names).short + (f" at {target:g}" if target else "")
        for name, target in ((row.criterion, row.target), (row.versus, row.versus_target))
    )
    gain = f"{100 * row.share:+.0f} % of dense [{100 * row.low:+.0f}, {100 * row.high:+.0f}]"
    return f"Out of order ({row.length:,} tokens, {row.mean}): {less} reads less than {more} and scores {gain}."
