"""(k) How far sparsity, or KV bytes, and score drift from what a threshold promised, where it was not fitted.

Shapes: B resamples, C columns (criterion, target).
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Setting
from headscope.figures.common.scores import MEAN, SETTING
from headscope.figures.common.tables import Tables
from headscope.heads.calibration.rules import RULES

COLUMNS = ["benchmark", "length", "criterion", "target", "task", "sparsity", "kv_bytes", "drift", "low", "high"]
COLUMNS += ["score", "lost", "lost_low", "lost_high", "n"]
PANELS = {
    ("drift", "low", "high"): "achieved {} - target",
    ("lost", "lost_low", "lost_high"): "score - dense, points",
}
SPREAD = 0.7
"""Share of the room between two targets that the criteria's marks take."""


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, floor: float = scores.FLOOR
) -> tuple[Figure, pd.DataFrame]:
    """Draw two panels a benchmark and length: drift of what targets are shares of, and the score against dense.

    Returns:
        The figure and the table, one row a criterion, target and task or mean of tasks: `sparsity` and `kv_bytes`
        shares, `drift` with its interval `low` and `high` the share beyond the target; `score` in points, `lost` with
        its interval the paired difference from dense; `n` prompts.

    Raises:
        ConfigError: dense was not evaluated or no criterion has a target.
    """
    rows = tables.rows
    scores.require_targets(rows, "drift")
    scores.require_dense(rows)
    parts, draws, rule = [], [], title.get("rule", "sparsity")
    for _, of_setting in rows.groupby(SETTING, sort=True):
        for task, _, part in scores.groups(of_setting, floor):
            described, *of_part = _drift(part, rule, resamples)
            parts.append(described.assign(task=task, **dict(of_setting[SETTING].iloc[0])))
            draws.append(of_part)
    table = pd.concat(parts, ignore_index=True)
    for columns, of_parts in zip(PANELS, zip(*draws, strict=True), strict=True):
        table[list(columns)] = _estimates(np.column_stack(of_parts), np.asarray(table["task"] == MEAN))
    table = table[COLUMNS]
    method = f"{bootstrap.method(resamples)}, of means over tasks that count; score paired with dense."
    figure = _figure(table, RULES[rule])
    style.finish(figure, title, "Small dots: tasks, all seeds together.", method,
                 f"Intervals of each measure {bootstrap.CORRECTED}, single tasks' in the table not.",
                 *scores.notes(rows, floor))  # fmt: skip
    return figure, table


def _drift(rows: pd.DataFrame, rule: str, resamples: int) -> tuple[pd.DataFrame, Floats, Floats]:
    """Return one row a criterion and target, in legend order; drift and difference from dense of each, [1 + B, C]."""
    sampled = scores.resample(rows, resamples)
    # dense and local have no target
    table = pd.DataFrame([column for column in sampled.columns if column[1]], columns=["criterion", "target"])
    table = scores.in_legend_order(table)
    own = [sampled.columns.index(column) for column in zip(table["criterion"], table["target"], strict=True)]
    values, sparsity, kv_bytes = (
        sampled.weights @ measured for measured in (sampled.values, sampled.sparsity, sampled.kv_bytes)
    )
    dense = values[:, [sampled.columns.index(("dense", 0.0))]]
    shares = {"sparsity": sparsity[:, own], "kv_bytes": kv_bytes[:, own]}
    means = {name: share[0] for name, share in shares.items()}
    table = table.assign(**means, score=values[0, own], n=len(sampled.tasks))
    return table, shares[rule] - table["target"].to_numpy(), values[:, own] - dense


def _estimates(draws: Floats, means: NDArray[np.bool_]) -> Floats:
    """Return value and interval of each column, [C, 3]; those of the means are corrected for their number."""
    estimates = np.column_stack(bootstrap.estimate(draws))
    estimates[means] = np.column_stack(bootstrap.holm(draws[:, means]))
    return estimates


def _figure(table: pd.DataFrame, what: str) -> Figure:
    settings = [part for _, part in table.groupby(SETTING, sort=True)]
    figure = style.new_figure(style.DOUBLE, 0.7 + 1.7 * len(settings))
    axes = figure.subplots(len(settings), len(PANELS), sharex=True, sharey="col", squeeze=False)
    for row, part in zip(axes, settings, strict=True):
        for ax, (columns, label) in zip(row, PANELS.items(), strict=True):
            _panel(ax, part, columns, style.ordered(list(table["criterion"])))
            ax.set(title=str(Setting(*part[SETTING].iloc[0])), ylabel=label.format(what))
    for ax in axes[-1]:
        ax.set_xlabel(f"target {what}")
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
