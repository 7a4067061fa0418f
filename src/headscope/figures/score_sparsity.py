"""(a) Score against achieved sparsity: every criterion, per task and length and their mean."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.scores import MEAN, SETTING
from headscope.figures.common.tables import Tables


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, floor: float = scores.FLOOR
) -> tuple[Figure, pd.DataFrame]:
    """Draw a panel for the mean over tasks and one a task, setting by setting; tasks too hard to count are grey."""
    parts = [
        scores.summarise(part, resamples).assign(**dict(rows[SETTING].iloc[0]), task=task, hard=hard)
        for _, rows in tables.rows.groupby(SETTING, sort=True)
        for task, hard, part in scores.groups(rows, floor)
    ]
    table = pd.concat(parts, ignore_index=True)
    x, y = "achieved sparsity (share local)", "score (0-100)"
    figure, grid = panels.grid(table, SETTING, "task", 1.65, x, y)
    for ax, part in grid:
        _panel(ax, part, list(table["criterion"]))
    panels.legend(figure, 4, handlelength=3)
    grey = ["Grey: too hard to count."] if table["hard"].any() else []
    axis = "Achieved sparsity: share of queries and query heads labelled local."
    method = f"{bootstrap.method(resamples)}; bands: dense and local."
    style.finish(figure, title, axis, method, *grey, *scores.notes(tables.rows, floor))
    return figure, table


def _panel(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    first = table.iloc[0]
    mean = f"{first['benchmark']}, mean of {style.plural(first['tasks'], 'task')}"
    name = f"{mean if first['task'] == MEAN else first['task']}, {first['length']:,} tokens"
    ax.set_title(panels.wrapped(name), color=style.GREY if first["hard"] else style.INK)
    ax.set_facecolor(style.PALE if first["hard"] else "white")
    panels.score_curves(ax, table, names)
    ax.set(xlim=(0, 1), ylim=(-3, 103), yticks=[0, 20, 40, 60, 80, 100])
    style.share_axis(ax.xaxis)
