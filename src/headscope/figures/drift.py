"""(k) How far sparsity and score drift from what a threshold promised, where it was not fitted.

Shapes: P prompts, C columns (criterion, target).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.tables import Setting, Tables

MEAN = "mean"
COLUMNS = ["benchmark", "length", "criterion", "target", "task", "sparsity", "drift", "low", "high", "score"]
COLUMNS += ["lost", "lost_low", "lost_high", "n"]
PANELS = {"drift": "achieved sparsity - target", "lost": "score - dense, points"}
SPREAD = 0.7
"""Share of the room between two targets that the criteria's marks take."""


def draw(
    tables: Tables,
    title: dict[str, Any],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw two panels a benchmark and length: drift of the sparsity, and the score against dense.

    Args:
        tables: evaluation nodes; calibration nodes, whose targets must be sparsities.
        title: what the footer names.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        floor: tasks on which dense scores less are in no mean.

    Returns:
        The figure and the table, one row a criterion, target and task or mean of tasks: `sparsity` a share, `drift`
        with its interval `low` and `high` the share beyond the target; `score` in points, `lost` with its interval the
        paired difference from dense; `n` prompts.

    Raises:
        ConfigError: dense was not evaluated or no criterion has a target.
    """
    rows = tables.rows
    if rows["target"].isna().all():
        raise ConfigError("figure drift: no criterion has a target; add one such as oracle, or leave the figure out")
    parts = [
        _drift(part, resamples, seed).assign(task=task, **scores.setting_of(part))
        for _, of_setting in rows.groupby(scores.SETTING, sort=True)
        for task, part in _parts(of_setting, floor)
    ]
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    figure = _figure(table)
    method = bootstrap.METHOD.format(resamples=resamples) + ", of means over tasks that count; score paired with dense."
    style.finish(figure, title, "Small dots: tasks, all seeds together.", method,
                 *scores.floor_notes(rows, floor), *scores.notes(rows))  # fmt: skip
    return figure, table


def _parts(rows: pd.DataFrame, floor: float) -> Iterator[tuple[str, pd.DataFrame]]:
    """The mean of the tasks that count, then every task."""
    yield MEAN, scores.counted(rows, floor)
    yield from ((str(task), of_task) for task, of_task in rows.groupby("task", sort=True))


def _drift(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """One row a criterion and target, in legend order."""
    found = scores.resample(rows, resamples, seed)
    own = [column for column, (_, target) in enumerate(found.columns) if target]  # dense and local have none
    columns = [found.columns[column] for column in own]
    sparsity, values = found.sparsity[:, own], found.values[:, own]
    dense = found.values[:, [found.columns.index(("dense", 0.0))]]
    table = pd.DataFrame(columns, columns=["criterion", "target"]).assign(n=len(found.tasks))
    table["sparsity"], table["score"] = found.with_interval(sparsity)[0], found.with_interval(values)[0]
    table["drift"], table["low"], table["high"] = found.with_interval(sparsity - table["target"].to_numpy())
    table["lost"], table["lost_low"], table["lost_high"] = found.with_interval(values - dense)
    return scores.in_legend_order(table)


def _figure(table: pd.DataFrame) -> Figure:
    settings = [part for _, part in table.groupby(scores.SETTING, sort=True)]
    names = style.ordered(list(table["criterion"]))
    figure = style.new_figure(style.DOUBLE, 0.7 + 1.7 * len(settings))
    axes = figure.subplots(len(settings), len(PANELS), sharex=True, sharey="col", squeeze=False)
    for row, part in zip(axes, settings, strict=True):
        for ax, (column, words) in zip(row, PANELS.items(), strict=True):
            _panel(ax, part, column, names)
            ax.set(title=str(Setting(**scores.setting_of(part))), ylabel=words)
    for ax in axes[-1]:
        ax.set_xlabel("target sparsity")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, column: str, names: list[str]) -> None:
    """The criteria side by side at each target; above 0 more was saved, or scored, than promised."""
    low, high = {"drift": ("low", "high"), "lost": ("lost_low", "lost_high")}[column]
    targets = sorted(table["target"].unique())
    ax.axhline(0, color=style.INK, lw=0.6, zorder=1)
    for name, aside in zip(names, _asides(len(names)), strict=True):
        look, line = style.look(name, names), table[table["criterion"] == name]
        place = np.searchsorted(targets, line["target"]) + aside
        mean = np.asarray(line["task"] == MEAN)
        value = np.asarray(line[column])
        reach = np.stack([value - line[low], line[high] - value])[:, mean].clip(min=0)
        ax.plot(place[~mean], value[~mean], ".", ms=4.5, color=look.colour, alpha=0.5, mew=0)
        ax.errorbar(place[mean], value[mean], yerr=reach, color=look.colour, ls="", marker=look.marker, ms=3.2,
                    elinewidth=0.9, label=look.label, zorder=3)  # fmt: skip
    ax.set_xticks(range(len(targets)), [f"{target:g}" for target in targets])
    ax.grid(axis="x", visible=False)


def _asides(count: int) -> list[float]:
    return [SPREAD * ((place + 0.5) / count - 0.5) for place in range(count)]
