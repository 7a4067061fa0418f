"""(g) The first picture task by task: score as a share of dense against the KV bytes read; its table has every seed."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.scores import MEAN, SETTING
from headscope.figures.common.tables import Tables

ALL = "all"


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, floor: float = scores.FLOOR
) -> tuple[Figure, pd.DataFrame]:
    """Draw a panel a task, setting by setting; tasks too hard to count are grey.

    Returns:
        The figure and the table: each task, its seeds apart where there are several, and the mean of each benchmark;
        `share` of the dense score with its interval, `score` in points, `kv_bytes` and sparsities as shares.

    Raises:
        ConfigError: dense was not evaluated.
    """
    scores.require_dense(tables.rows)
    parts = [
        scores.shares_of_dense(part, scores.resample(part, resamples)).assign(**dict(part[SETTING].iloc[0]), **where)
        for _, rows in tables.rows.groupby(SETTING, sort=True)
        for where, part in _parts(rows, floor)
    ]
    table = pd.concat(parts, ignore_index=True).assign(scope=tables.scope)
    shown = table[(table["seed"] == ALL) & (table["task"] != MEAN)]
    figure, grid = panels.grid(shown, SETTING, "task", 1.5, panels.KV_BYTES, panels.SHARE)
    highest = panels.highest_share(scores.drop_hard(shown))
    for ax, part in grid:
        _panel(ax, part, shown, highest)
    panels.legend(figure, 4, handlelength=3)
    grey = ["Grey: too hard to count."] if table["hard"].any() else []
    style.finish(figure, title, f"Bars: {bootstrap.method(resamples)}, paired with dense.", *grey,
                 *panels.cut_note(shown, highest), *scores.notes(tables.rows, floor))  # fmt: skip
    return figure, table


def _parts(rows: pd.DataFrame, floor: float) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the rows of the mean, of each task and of its seeds, with what identifies them in the table."""
    for task, hard, part in scores.groups(rows, floor):
        yield {"task": task, "seed": ALL, "hard": hard}, part
        if task != MEAN and part["seed"].nunique() > 1:
            for seed, of_seed in part.groupby("seed", sort=True):
                yield {"task": task, "seed": str(seed), "hard": hard}, of_seed


def _panel(ax: Axes, table: pd.DataFrame, shown: pd.DataFrame, highest: float) -> None:
    first = table.iloc[0]
    dense = table.loc[table["criterion"] == "dense", "score"].iloc[0]
    title = f"{first['task']}\n{first['length']:,} tokens, dense score {dense:.0f}"
    ax.set_title(title, color=style.GREY if first["hard"] else style.INK)
    ax.set_facecolor(style.PALE if first["hard"] else "white")
    panels.share_curves(ax, table, shown, highest)
