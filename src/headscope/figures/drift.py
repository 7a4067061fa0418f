"""(k) How far sparsity and score drift from what a threshold promised, where it was not fitted.

Shapes: P prompts, C columns (criterion, target).
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.node import Setting
from headscope.figures.common.scores import MEAN, SETTING
from headscope.figures.common.tables import Tables

COLUMNS = ["benchmark", "length", "criterion", "target", "task", "sparsity", "drift", "low", "high", "score"]
COLUMNS += ["lost", "lost_low", "lost_high", "n"]
PANELS = {
    ("drift", "low", "high"): "achieved sparsity - target",
    ("lost", "lost_low", "lost_high"): "score - dense, points",
}
SPREAD = 0.7
"""Share of the room between two targets that the criteria's marks take."""


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, floor: float = scores.FLOOR
) -> tuple[Figure, pd.DataFrame]:
    """Draw two panels a benchmark and length: drift of the sparsity, and the score against dense.

    Returns:
        The figure and the table, one row a criterion, target and task or mean of tasks: `sparsity` a share, `drift`
        with its interval `low` and `high` the share beyond the target; `score` in points, `lost` with its interval the
        paired difference from dense; `n` prompts.

    Raises:
        ConfigError: dense was not evaluated or no criterion has a target.
    """
    rows = tables.rows
    scores.require_targets(rows, "drift")
    scores.require_dense(rows)
    parts = [
        _drift(part, resamples).assign(task=task, **dict(of_setting[SETTING].iloc[0]))
        for _, of_setting in rows.groupby(SETTING, sort=True)
        for task, _, part in scores.groups(of_setting, floor)
    ]
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    method = f"{bootstrap.method(resamples)}, of means over tasks that count; score paired with dense."
    figure = _figure(table)
    style.finish(figure, title, "Small dots: tasks, all seeds together.", method, *scores.notes(rows, floor))
    return figure, table


def _drift(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Return one row a criterion and target, in legend order."""
    sampled = scores.resample(rows, resamples)
    own = [column for column, (_, target) in enumerate(sampled.columns) if target]  # dense and local have none
    sparsity, values = sampled.sparsity[:, own], sampled.values[:, own]
    dense = sampled.values[:, [sampled.columns.index(("dense", 0.0))]]
    table = pd.DataFrame([sampled.columns[column] for column in own], columns=["criterion", "target"])
    table["sparsity"], table["score"] = sampled.mean(sparsity)[0], sampled.mean(values)[0]
    table["drift"], table["low"], table["high"] = sampled.mean(sparsity - table["target"].to_numpy())
    table["lost"], table["lost_low"], table["lost_high"] = sampled.mean(values - dense)
    return scores.in_legend_order(table).assign(n=len(sampled.tasks))


def _figure(table: pd.DataFrame) -> Figure:
    settings = [part for _, part in table.groupby(SETTING, sort=True)]
    figure = style.new_figure(style.DOUBLE, 0.7 + 1.7 * len(settings))
    axes = figure.subplots(len(settings), len(PANELS), sharex=True, sharey="col", squeeze=False)
    for row, part in zip(axes, settings, strict=True):
        for ax, (columns, label) in zip(row, PANELS.items(), strict=True):
            _panel(ax, part, columns, style.ordered(list(table["criterion"])))
            ax.set(title=str(Setting(*part[SETTING].iloc[0])), ylabel=label)
    for ax in axes[-1]:
        ax.set_xlabel("target sparsity")
    panels.legend(figure, 4)
    return figure


def _panel(ax: Axes, table: pd.DataFrame, columns: tuple[str, str, str], names: list[str]) -> None:
    """Draw the criteria side by side at each target; above 0 more was saved, or scored, than promised."""
    targets = sorted(table["target"].unique())
    ax.axhline(0, color=style.INK, lw=0.6, zorder=1)
    for number, name in enumerate(names):
        look, part = style.look(name, names), table[table["criterion"] == name]
        x = np.searchsorted(targets, part["target"]) + SPREAD * ((number + 0.5) / len(names) - 0.5)
        value, low, high = (np.asarray(part[column]) for column in columns)
        mean = np.asarray(part["task"] == MEAN)
        reach = np.stack([value - low, high - value])[:, mean].clip(min=0)
        ax.plot(x[~mean], value[~mean], ".", ms=4.5, color=look.colour, alpha=0.5, mew=0)
        ax.errorbar(x[mean], value[mean], yerr=reach, color=look.colour, ls="", marker=look.marker, ms=3.2,
                    elinewidth=0.9, label=look.label, zorder=3)  # fmt: skip
    ax.set_xticks(range(len(targets)), [f"{target:g}" for target in targets])
    ax.grid(axis="x", visible=False)
