"""(a) Score against achieved sparsity: every criterion, per task and length and their mean."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.scores import SETTING
from headscope.figures.common.tables import Tables

COLUMNS = 3
MEAN = "mean"


def draw(
    tables: Tables,
    title: dict[str, Any],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a task and setting after the mean over tasks; tasks below `floor` stand apart, in grey."""
    table = pd.concat(
        [_of_setting(rows, resamples, seed, floor) for _, rows in tables.rows.groupby(SETTING, sort=True)]
    )
    layout = _layout(table)
    figure = style.new_figure(style.DOUBLE, 0.75 + 1.65 * len(layout))
    axes = figure.subplots(len(layout), COLUMNS, sharex=True, sharey=True, squeeze=False)
    for row, panels in zip(axes, layout, strict=True):
        for ax, (benchmark, length, task) in zip(row, panels, strict=False):
            here = (table["benchmark"] == benchmark) & (table["length"] == length) & (table["task"] == task)
            _panel(ax, table[here])
    _label(figure, axes, layout)
    method = bootstrap.METHOD.format(resamples=resamples) + "; bands: dense and local."
    axis = "Achieved sparsity: share of queries and query heads labelled local."
    style.finish(figure, title, axis, method, *_floor_note(table, floor), *scores.notes(tables.rows))
    return figure, table.reset_index(drop=True)


def _of_setting(rows: pd.DataFrame, resamples: int, seed: int, floor: float) -> pd.DataFrame:
    """Curves of one benchmark and length: the mean over tasks that count, these tasks, then the tasks apart."""
    setting = scores.setting_of(rows)
    apart = scores.too_hard(rows, floor)
    counted = [str(task) for task in rows["task"].unique() if task not in apart]
    groups = {MEAN: counted, **{task: [task] for task in counted + apart}}
    parts = []
    for task, members in groups.items():
        chosen = rows[rows["task"].isin(members)]
        if len(chosen):
            part = scores.summarise(chosen, scores.resample(chosen, resamples, seed))
            parts.append(part.assign(**setting, task=task, apart=task in apart))
    return pd.concat(parts)


def _layout(table: pd.DataFrame) -> list[list[tuple[str, int, str]]]:
    """Rows of panels (benchmark, length, task): each setting and the tasks apart begin a new row."""
    grid = []
    for _, group in table.groupby([*SETTING, "apart"], sort=True):
        panels = list(dict.fromkeys(zip(group["benchmark"], group["length"], group["task"], strict=True)))
        grid += style.rows_of(panels, COLUMNS)
    return grid


def _panel(ax: Axes, table: pd.DataFrame) -> None:
    first = table.iloc[0]
    task, apart = first["task"], first["apart"]
    name = f"{first['benchmark']}, mean of {style.plural(first['tasks'], 'task')}" if task == MEAN else task
    title = f"{name}, {first['length']:,} tokens" + (" (apart)" if apart else "")
    ax.set_title(style.wrapped(title), color=style.GREY if apart else style.INK)
    ax.set_facecolor(style.PALE if apart else "white")
    names = list(table["criterion"])
    for criterion in style.ordered(names):
        line, look = table[table["criterion"] == criterion], style.look(criterion, names)
        if line["target"].isna().all():
            ax.axhspan(line["low"].iloc[0], line["high"].iloc[0], color=look.colour, alpha=0.1, lw=0)
            ax.axhline(line["score"].iloc[0], color=look.colour, ls=look.line, lw=0.9, label=look.label)
            continue
        reach = np.stack([line["score"] - line["low"], line["high"] - line["score"]]).clip(min=0)
        bars = ax.errorbar(line["sparsity"], line["score"], yerr=reach, color=look.colour, ls=look.line,
                           marker=look.marker, elinewidth=0.5, label=look.label, zorder=3)  # fmt: skip
        for bar in bars[2]:
            bar.set_alpha(0.5)


def _label(figure: Figure, axes: Any, layout: list[list[tuple[str, int, str]]]) -> None:
    axes[0, 0].set(xlim=(0, 1), ylim=(-3, 103), yticks=[0, 20, 40, 60, 80, 100])
    style.share_axis(axes[0, 0].xaxis)
    style.close_grid(axes, layout, "achieved sparsity (share local)")
    for ax in axes[:, 0]:
        ax.set_ylabel("score (0-100)")
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=4, handlelength=3)


def _floor_note(table: pd.DataFrame, floor: float) -> list[str]:
    return [f"Grey: dense below {floor:g}, not in the mean."] if table["apart"].any() else []
