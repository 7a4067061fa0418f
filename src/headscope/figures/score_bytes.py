"""(a) The first picture: score as a share of dense against KV bytes read, and points that break a curve's order."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, comparisons, panels, scores, style
from headscope.figures.common.tables import Tables

ALL = "all tasks"
COLUMNS = ["length", "scope", "mean", "hard", "criterion", "target", "versus", "versus_target", "kv_bytes", "sparsity"]
COLUMNS += ["sparsity_group", "score", "share", "low", "high", "verdict", "tasks", "prompts"]
ROOM = 0.065
"""Height of a curve's name, as a share of the axis."""
NAMES = 1.02
"""Where names of curves stand, as a share of the panel's width."""
NAMED = 3
"""Points out of order that the footer names; the CSV has all of them."""


def draw(
    tables: Tables,
    title: dict[str, Any],
    means: Mapping[str, Sequence[str]] | None = None,
    resamples: int = bootstrap.RESAMPLES,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a length for the mean of all tasks, and one beside it for each other mean; benchmarks are pooled.

    Args:
        tables: evaluation nodes.
        title: what the footer names.
        means: tasks of further means by name; tasks that were not evaluated are left out.
        resamples: bootstrap resamples.
        floor: tasks on which dense scores less are in no mean.

    Returns:
        The figure and the table: `share` of the dense score with its interval, `score` in points, `kv_bytes` and
        sparsities as shares. Where `versus` names the point of a curve that reads more, `share` is how much more
        `criterion` scores, and the verdict "better" says that the order is broken.

    Raises:
        ConfigError: dense was not evaluated.
    """
    scores.require_dense(tables.rows)
    parts: list[pd.DataFrame] = []
    compared: list[comparisons.Comparison] = []
    for where, rows in _means(tables.rows, means or {}, floor):
        sampled = scores.resample(rows, resamples)
        parts.append(scores.shares_of_dense(rows, sampled).assign(**where, versus=""))
        compared += [] if where["hard"] else comparisons.along_curves(sampled, where)
    changes = comparisons.judged(compared, "share")
    table = pd.concat([*parts, changes], ignore_index=True).assign(scope=tables.scope).reindex(columns=COLUMNS)
    points = table[table["versus"] == ""]
    shown = scores.drop_hard(points)
    highest = panels.highest_share(shown)
    figure = _figure(shown, highest, title)
    style.finish(figure, title, f"Bars: {bootstrap.method(resamples)}, paired with dense.",
                 *panels.cut_note(shown, highest), *_not_drawn(points.drop(shown.index), floor),
                 *(f"{name.capitalize()}: {', '.join(tasks)}." for name, tasks in (means or {}).items()),
                 f"Order of a curve's points: intervals {bootstrap.CORRECTED}.", *scores.notes(tables.rows, floor),
                 warnings=comparisons.out_of_order(changes, list(table["criterion"]), NAMED))  # fmt: skip
    return figure, table


def _means(
    rows: pd.DataFrame, means: Mapping[str, Sequence[str]], floor: float
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the rows of each length and mean, with what identifies them in the table."""
    for length, of_length in rows.groupby("length", sort=True):
        for name, tasks in {ALL: of_length["task"].unique(), **means}.items():
            part = of_length[of_length["task"].isin(list(tasks))]
            if len(part):
                hard = len(scores.hard_tasks(part, floor)) == part["task"].nunique()
                yield {"length": length, "mean": name, "hard": hard}, scores.drop_hard_tasks(part, floor)


def _not_drawn(points: pd.DataFrame, floor: float) -> list[str]:
    """Say which means have no panel."""
    means = points[["mean", "length"]].drop_duplicates()
    named = [f"{row.mean} at {row.length:,} tokens" for row in style.records(means)]
    return [f"Not drawn, since dense scores below {floor:g} on every task: {', '.join(named)}."] if named else []


def _figure(table: pd.DataFrame, highest: float, title: dict[str, Any]) -> Figure:
    figure, grid = panels.grid(table, ["length"], "mean", 3.1, f"{panels.KV_BYTES} (less to the right)", panels.SHARE)
    for ax, part in grid:
        first = part.iloc[0]
        name = "mean" if first["mean"] == ALL else f"{first['mean']}, mean"
        counts = f"{style.plural(int(first['tasks']), 'task')}, {style.plural(int(first['prompts']), 'prompt')}"
        colour = style.GREY if first["hard"] else style.INK
        ax.set_title(f"{first['length']:,} tokens, {name} of {counts}", color=colour)
        panels.share_curves(ax, part, table, highest)
        _label(ax, part, list(table["criterion"]))
    seeds = f"data {style.named_seeds(title)}"
    figure.suptitle(f"Score that is left when fewer KV bytes are read ({title['model']}, {seeds})", fontsize=8.5)
    return figure


def _label(ax: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Name each curve right of the panel, level with its end or as near to it as the other names leave room."""
    (left, _), (low, high) = ax.get_xlim(), ax.get_ylim()
    ends = table.loc[table.groupby("criterion")["kv_bytes"].idxmin()].dropna(subset="share")
    ends = ends[ends["criterion"] != "dense"].sort_values("share", ascending=False)
    ends = ends.assign(right=-ends["kv_bytes"] / left, share=ends["share"].clip(upper=high))
    places = _spread(ends["share"].tolist(), ROOM * (high - low))
    for place, end in zip(places, _without_crossings(style.records(ends), places), strict=True):
        look = style.look(end.criterion, names)
        leader = {"arrowstyle": "-", "color": look.colour, "lw": 0.5, "ls": ":", "shrinkA": 0, "shrinkB": 2}
        ax.annotate(look.short, (end.kv_bytes, end.share), (NAMES, place), textcoords=ax.get_yaxis_transform(),
                    color=look.colour, va="center", arrowprops={**leader, "relpos": (0, 0.5)},
                    fontweight="bold")  # fmt: skip
    ax.annotate("dense", (1, 1), (0, 4), textcoords="offset points", ha="center", fontweight="bold")


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move descending places apart until neighbours are `gap` apart, and none lies below 0 for want of room."""
    spread = list(places)
    for i in range(1, len(spread)):
        spread[i] = min(spread[i], spread[i - 1] - gap)
    lowest = 0.0
    for i in reversed(range(len(spread))):
        spread[i], lowest = max(spread[i], lowest), max(spread[i], lowest) + gap
    return spread


def _without_crossings(ends: list[Any], places: Sequence[float]) -> list[Any]:
    """Order the ends of curves so that no lines from the names at `places` to them cross.

    Two names whose lines cross change places. Each exchange makes the lines shorter, so there is a last one.
    """
    ends = list(ends)
    pairs = list(combinations(range(len(ends)), 2))
    while crossing := [(i, j) for i, j in pairs if _cross((ends[i], places[i]), (ends[j], places[j]))]:
        i, j = crossing[0]
        ends[i], ends[j] = ends[j], ends[i]
    return ends


def _cross(upper: tuple[Any, float], lower: tuple[Any, float]) -> bool:
    """Return True if the line from the upper name lies below the other line where the shorter of the two ends."""
    right = max(upper[0].right, lower[0].right)
    above, below = (
        float(np.interp(right, [end.right, NAMES - 1], [end.share, place])) for end, place in (upper, lower)
    )
    return above < below - 1e-9
