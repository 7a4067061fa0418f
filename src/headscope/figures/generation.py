"""(g) What generation keeps: score against achieved sparsity as a share of dense, and every score by task and seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.tables import Tables

ALL, MEAN = "all", "mean"
COLUMNS = ["criterion", "length", "scope", "seed", "target", "task", "sparsity", "score", "low", "high", "n"]
PANELS = 3


def draw(
    tables: Tables,
    title: dict[str, Any],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a length; the CSV has each task and seed, all seeds of a task, and the mean over tasks.

    Args:
        tables: evaluation nodes; benchmarks of one length are pooled.
        title: what the footer names.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        floor: tasks on which dense scores less are in no mean.

    Returns:
        The figure and the table: `sparsity` a share, `score`, `low` and `high` in points, `n` prompts.

    Raises:
        ConfigError: dense was not evaluated.
    """
    rows = tables.rows
    parts = [
        scores.summarise(part, scores.resample(part, resamples, seed)).assign(task=task, seed=of, length=length)
        for length, of_length in rows.groupby("length", sort=True)
        for task, of, part in _parts(of_length, floor)
    ]
    table = pd.concat(parts, ignore_index=True).rename(columns={"prompts": "n"}).assign(scope=tables.scope)[COLUMNS]
    figure = _figure(table[table["task"] == MEAN])
    method = bootstrap.METHOD.format(resamples=resamples) + ", of the score; the dense score divides as it is."
    style.finish(figure, title, "Mean over tasks that count, all seeds together.", method,
                 *scores.floor_notes(rows, floor), *scores.notes(rows))  # fmt: skip
    return figure, table


def _parts(rows: pd.DataFrame, floor: float) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Task, seed and rows of each part of one length that has scores of its own."""
    yield MEAN, ALL, scores.counted(rows, floor)
    for task, of_task in rows.groupby("task", sort=True):
        yield str(task), ALL, of_task
        yield from ((str(task), str(seed), of_seed) for seed, of_seed in of_task.groupby("seed", sort=True))


def _figure(table: pd.DataFrame) -> Figure:
    lengths = sorted(table["length"].unique())
    layout = style.rows_of(lengths, min(PANELS, len(lengths)))
    names = list(table["criterion"])
    figure = style.new_figure(style.DOUBLE, 0.9 + 2.3 * len(layout))
    axes = figure.subplots(len(layout), len(layout[0]), sharex=True, sharey=True, squeeze=False)
    for row, lengths in zip(axes, layout, strict=True):
        for ax, length in zip(row, lengths, strict=False):
            _panel(ax, table[table["length"] == length], names)
            ax.set_title(f"{length:,} tokens")
    reached = table.loc[table["target"].notna(), "sparsity"]
    axes[0, 0].set(xlim=(max(0, reached.min() - 0.05), 1.01), ylim=(-0.03, None))
    style.close_grid(axes, layout, "achieved sparsity (share local)")
    for ax in axes[:, 0]:
        ax.set_ylabel("score, share of dense")
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4, handlelength=3.5)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, names: list[str]) -> None:
    dense = table.loc[table["criterion"] == "dense", "score"].iloc[0] or np.nan  # of 0 there is no share
    for criterion in style.ordered(names):
        line, look = table[table["criterion"] == criterion], style.look(criterion, names)
        kept, low, high = (np.asarray(line[name]) / dense for name in ("score", "low", "high"))
        if line["target"].isna().all():
            ax.axhspan(low[0], high[0], color=look.colour, alpha=0.08, lw=0)
            ax.axhline(kept[0], color=look.colour, ls=look.line, lw=0.9, label=look.label)
            continue
        reach = np.stack([kept - low, high - kept]).clip(min=0)
        bars = ax.errorbar(line["sparsity"], kept, yerr=reach, color=look.colour, ls=look.line, marker=look.marker,
                           elinewidth=0.5, label=look.label, zorder=3)  # fmt: skip
        for bar in bars[2]:
            bar.set_alpha(0.4)
