"""(e) False and missed long labels of each estimator against tau; oracle and estimator are tested at the same tau.

Shapes: P prompts, B resamples, K thresholds.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from headscope.figures.common import bootstrap, style
from headscope.figures.common.tables import Floats, Setting, Tables

THRESHOLDS = np.linspace(-4, 8, 49)
TICKS = [0.05, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999]
LINES = {"false long": "-", "missed long": "--"}
COLUMNS = 3


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a setting and task."""
    tables.needed_estimators()
    table = pd.concat([_of_setting(tables, setting, resamples, seed) for setting in tables.settings], ignore_index=True)
    keys = ["benchmark", "length"]
    groups = [list(group.groupby([*keys, "task"], sort=False).groups) for _, group in table.groupby(keys)]
    layout = [row for group in groups for row in style.rows_of(group, COLUMNS)]
    figure = style.new_figure(style.DOUBLE, 0.75 + 1.75 * len(layout))
    axes = figure.subplots(len(layout), COLUMNS, sharex=True, sharey=True, squeeze=False)
    for row, panels in zip(axes, layout, strict=True):
        for ax, (benchmark, length, task) in zip(row, panels, strict=False):
            here = (table["benchmark"] == benchmark) & (table["length"] == length) & (table["task"] == task)
            _panel(ax, table[here], tables)
            ax.set_title(style.wrapped(f"{task}, {length:,} tokens"))
    _label(axes, layout)
    figure.legend(handles=_handles(tables), loc="outside upper center", ncols=2, handlelength=3)
    rule = "Pairs: (query, head). Long: the window's share is below tau, by exact (oracle) or predicted bulk mass."
    style.finish(figure, title, rule, "Bands: " + bootstrap.METHOD.format(resamples=resamples) + ".")
    return figure, table


def _of_setting(tables: Tables, setting: Setting, resamples: int, seed: int) -> pd.DataFrame:
    """Errors by task and estimator, from one pass over the oracle tables."""
    found: dict[tuple[str, str], list[Floats]] = {}
    for block in tables.blocks(setting, tables.estimators):
        true = block.local - block.bulk
        for name, estimate in block.estimates.items():
            found.setdefault((block.task, name), []).append(errors(true, block.local - estimate))
    parts = [_table(np.stack(prompts), task, resamples, seed).assign(task=task, estimator=name)
             for (task, name), prompts in found.items()]  # fmt: skip
    return pd.concat(parts).assign(**setting._asdict())


def errors(true: Floats, predicted: Floats) -> Floats:
    """False long, missed long and oracle-long shares of the pairs at each threshold, [3, K].

    Args:
        true: exact log-odds of the window, any shape.
        predicted: predicted log-odds, same shape.
    """
    size = len(THRESHOLDS) + 1
    # A value's bin is the number of thresholds at or below it, where the pair is local; beyond these it is long.
    cells = [np.searchsorted(THRESHOLDS, values.ravel(), side="right") for values in (true, predicted)]
    joint = np.bincount(cells[0] * size + cells[1], minlength=size * size).reshape(size, size) / true.size
    below = joint.cumsum(axis=0).cumsum(axis=1)
    both = below.diagonal()[:-1]
    oracle, called = below[:-1, -1], below[-1, :-1]
    return np.stack([called - both, oracle - both, oracle])


def _table(prompts: Floats, task: str, resamples: int, seed: int) -> pd.DataFrame:
    """Means and intervals over prompts; `prompts` is [P, 3, K]."""
    flat = prompts[:, :2].reshape(len(prompts), -1)
    low, high = bootstrap.interval(bootstrap.resampled_weights([task] * len(flat), resamples, seed) @ flat)
    columns = {"error": np.repeat(list(LINES), len(THRESHOLDS)), "threshold": np.tile(THRESHOLDS, 2)}
    table = pd.DataFrame({**columns, "share": flat.mean(axis=0), "low": low, "high": high})
    oracle_long = np.tile(prompts[:, 2].mean(axis=0), 2)
    return table.assign(tau=1 / (1 + np.exp(-table["threshold"])), oracle_long=oracle_long)


def _look(tables: Tables, estimator: str) -> style.Look:
    name = tables.criterion_of(estimator) or estimator
    return style.look(name, [*tables.criteria, *tables.estimators])


def _panel(ax: Axes, table: pd.DataFrame, tables: Tables) -> None:
    for (estimator, error), line in table.groupby(["estimator", "error"]):
        look, error = _look(tables, str(estimator)), str(error)
        ax.fill_between(line["threshold"], line["low"], line["high"], color=look.colour, alpha=0.15, lw=0)
        ax.plot(line["threshold"], line["share"], color=look.colour, ls=LINES[error], marker=look.marker, markevery=8)


def _label(axes: Any, layout: list[list[tuple[int, str]]]) -> None:
    ticks = [float(np.log(tau / (1 - tau))) for tau in TICKS]
    axes[0, 0].set(xlim=(THRESHOLDS[0], THRESHOLDS[-1]), ylim=(0, None))
    axes[0, 0].set_xticks(ticks, [f"{tau:g}".lstrip("0") for tau in TICKS])
    style.close_grid(axes, layout, "tau (logit scale)")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of pairs")


def _handles(tables: Tables) -> list[Line2D]:
    handles = []
    for estimator in tables.estimators:
        look = _look(tables, estimator)
        for error, line in LINES.items():
            handles.append(
                Line2D([], [], color=look.colour, ls=line, marker=look.marker, label=f"{look.label}: {error}")
            )
    return handles
