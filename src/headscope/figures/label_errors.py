"""(e) False and missed long labels of each estimator against tau; oracle and estimator are tested at the same tau.

Shapes: P prompts, B resamples, K thresholds.
"""

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Setting
from headscope.figures.common.scores import SETTING
from headscope.figures.common.tables import Tables

THRESHOLDS = np.linspace(-4, 8, 49)
TICKS = [0.05, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999]
LINES = {"false long": "-", "missed long": "--"}


def draw(tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a setting and task."""
    tables.needed_estimators()
    table = pd.concat([_of_setting(tables, setting, resamples) for setting in tables.settings], ignore_index=True)
    figure, grid = panels.grid(table, SETTING, "task", 1.75, "tau (logit scale)", "share of pairs")
    for ax, part in grid:
        _panel(ax, part, tables)
        ax.set_title(panels.wrapped(f"{part['task'].iloc[0]}, {part['length'].iloc[0]:,} tokens"))
    ticks = [float(np.log(tau / (1 - tau))) for tau in TICKS]
    highest = max(ax.get_ylim()[1] for ax, _ in grid)
    for ax, _ in grid:
        ax.set(xlim=(THRESHOLDS[0], THRESHOLDS[-1]), ylim=(0, highest))
        ax.set_xticks(ticks, [f"{tau:g}".lstrip("0") for tau in TICKS])
    panels.legend(figure, 2, handlelength=3)
    rule = "Pairs: (query, head). Long: the window's share is below tau, by exact (oracle) or predicted bulk mass."
    style.finish(figure, title, rule, f"Bands: {bootstrap.method(resamples)}.")
    return figure, table


def _of_setting(tables: Tables, setting: Setting, resamples: int) -> pd.DataFrame:
    """Return errors by task and estimator, from one pass over the oracle tables."""
    prompts: dict[tuple[str, str], list[Floats]] = defaultdict(list)
    for block in tables.blocks(setting, tables.estimators):
        exact = block.local - block.bulk
        for name, estimate in block.estimates.items():
            prompts[block.task, name].append(errors(exact, block.local - estimate))
    parts = [_table(np.stack(shares), resamples).assign(task=task, estimator=name)
             for (task, name), shares in prompts.items()]  # fmt: skip
    return pd.concat(parts).assign(**setting._asdict())


def errors(exact: Floats, predicted: Floats) -> Floats:
    """Return false long, missed long and oracle-long shares of the pairs at each threshold, [3, K].

    Args:
        exact: log-odds of the window, any shape.
        predicted: predicted log-odds, same shape.
    """
    size = len(THRESHOLDS) + 1
    # A value's bin is the number of thresholds at or below it, where the pair is local; beyond these it is long.
    true, guess = (np.searchsorted(THRESHOLDS, values.ravel(), side="right") for values in (exact, predicted))
    joint = np.bincount(true * size + guess, minlength=size * size).reshape(size, size) / exact.size
    below = joint.cumsum(axis=0).cumsum(axis=1)
    both = below.diagonal()[:-1]
    oracle, called = below[:-1, -1], below[-1, :-1]
    return np.stack([called - both, oracle - both, oracle])


def _table(prompts: Floats, resamples: int) -> pd.DataFrame:
    """Return means and intervals over the prompts of one task, [P, 3, K]."""
    share, low, high = bootstrap.mean(prompts[:, :2].reshape(len(prompts), -1), ["task"] * len(prompts), resamples)
    columns = {"error": np.repeat(list(LINES), len(THRESHOLDS)), "threshold": np.tile(THRESHOLDS, 2)}
    columns |= {"share": share, "low": low, "high": high, "tau": np.tile(1 / (1 + np.exp(-THRESHOLDS)), 2)}
    return pd.DataFrame(columns).assign(oracle_long=np.tile(prompts[:, 2].mean(axis=0), 2))


def _panel(ax: Axes, table: pd.DataFrame, tables: Tables) -> None:
    names = [*tables.criteria, *tables.estimators]
    for (estimator, error), line in table.groupby(["estimator", "error"]):
        look = style.look(tables.criterion_of(str(estimator)), names)
        ax.fill_between(line["threshold"], line["low"], line["high"], color=look.colour, alpha=0.15, lw=0)
        ax.plot(line["threshold"], line["share"], color=look.colour, ls=LINES[str(error)], marker=look.marker,
                markevery=8, label=f"{look.label}: {error}")  # fmt: skip
