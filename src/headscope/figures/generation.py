"""(g) Score as a share of dense against achieved sparsity; its table has every score by task and seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.scores import MEAN
from headscope.figures.common.tables import Tables

ALL = "all"
COLUMNS = ["criterion", "length", "scope", "seed", "target", "task", "sparsity", "score", "low", "high", "n"]


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, floor: float = scores.FLOOR
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a length; benchmarks of one length are pooled.

    Returns:
        The figure and the table: each task and seed, all seeds of a task, and the mean over tasks; `sparsity` a share,
        `score`, `low` and `high` in points, `n` prompts.

    Raises:
        ConfigError: dense was not evaluated.
    """
    rows = tables.rows
    scores.require_dense(rows)
    parts = [
        scores.summarise(part, resamples).assign(task=task, seed=seed, length=length)
        for length, of_length in rows.groupby("length", sort=True)
        for task, seed, part in _parts(of_length, floor)
    ]
    table = pd.concat(parts, ignore_index=True).rename(columns={"prompts": "n"}).assign(scope=tables.scope)[COLUMNS]
    figure = _figure(table[table["task"] == MEAN])
    method = f"{bootstrap.method(resamples)}, of the score; the dense score divides as it is."
    style.finish(figure, title, "Mean over tasks that count, all seeds together.", method, *scores.notes(rows, floor))
    return figure, table


def _parts(rows: pd.DataFrame, floor: float) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield task, seed and rows of the mean, of each task and of each task's seeds."""
    for task, _, part in scores.groups(rows, floor):
        yield task, ALL, part
        if task != MEAN:
            yield from ((task, str(seed), of_seed) for seed, of_seed in part.groupby("seed", sort=True))


def _figure(table: pd.DataFrame) -> Figure:
    x, y = "achieved sparsity (share local)", "score, share of dense"
    figure, grid = panels.grid(table, ["scope"], "length", 2.4, x, y)
    for ax, part in grid:
        dense = part.loc[part["criterion"] == "dense", "score"].iloc[0] or np.nan  # of 0 there is no share
        panels.score_curves(ax, part, list(table["criterion"]), dense)
        ax.set_title(f"{part['length'].iloc[0]:,} tokens")
    least = table.loc[table["target"].notna(), "sparsity"].min()
    grid[0][0].set(xlim=(max(0, least - 0.05), 1.01), ylim=(-0.03, None))
    panels.legend(figure, 4, handlelength=3.5)
    return figure
