"""Pieces of pictures that several figures draw: grids of panels, curves of scores, named rows, maps of shares."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETUPBASE
from matplotlib.ticker import MultipleLocator, PercentFormatter

from headscope.figures.common import style

COLUMNS = 3
KV_BYTES = "KV bytes read, share of all keys and values"
SHARE = "score, share of dense"
HIGHEST = 1.5
"""Largest share at the upper end of an axis: of a low dense score a share may be any number."""


def legend(figure: Figure, columns: int, **options: Any) -> None:
    """Put one legend above all panels, each label once."""
    labelled = (zip(*ax.get_legend_handles_labels(), strict=True) for ax in figure.axes)
    handles = {label: handle for panel in labelled for handle, label in panel}
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=columns, **options)


def grid(
    table: pd.DataFrame, group: Sequence[str], panel: str, height: float, xlabel: str, ylabel: str
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """Make a figure with one panel for each value of the column `panel`, at most three side by side.

    Args:
        table: rows of all panels.
        group: columns; each combination of their values begins a new row of panels.
        panel: column that parts a group's rows into panels.
        height: of a row of panels, in inches.
        xlabel: named under the last panel of each column.
        ylabel: named left of each row.

    Returns:
        The figure, and the axes of each panel with its rows of the table; the caller sets their limits, all equal.
    """
    groups = [
        [part for _, part in rows.groupby(panel, sort=False)] for _, rows in table.groupby(list(group), sort=True)
    ]
    columns = min(COLUMNS, max(map(len, groups)))
    layout = [panels[start : start + columns] for panels in groups for start in range(0, len(panels), columns)]
    figure = style.new_figure(style.DOUBLE, 0.75 + height * len(layout))
    # Each panel has axes of its own, with equal limits: shared ones cost time with the square of their number.
    axes = figure.subplots(len(layout), columns, squeeze=False)
    for column in range(columns):
        filled = [row for row, panels in enumerate(layout) if len(panels) > column]
        axes[filled[-1], column].set_xlabel(xlabel)
        for row, ax in enumerate(axes[:, column]):
            ax.tick_params(labelleft=column == 0)
            ax.set_axis_on() if row in filled else ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return figure, [pair for row, panels in zip(axes, layout, strict=True) for pair in zip(row, panels, strict=False)]


def wrapped(title: str) -> str:
    """Break a long title of a panel that is a third of a page wide."""
    return textwrap.fill(title, 40)


def highest_share(table: pd.DataFrame) -> float:
    """Return the upper end of the axis of shares: what the points need, at most HIGHEST; intervals do not count."""
    most = table["share"].max()
    return 1.1 if np.isnan(most) else float(np.clip(np.ceil(20 * most + 0.6) / 20, 1.1, HIGHEST))


def share_curves(ax: Axes, table: pd.DataFrame, shown: pd.DataFrame, highest: float) -> None:
    """Draw score as a share of dense against KV bytes read: a curve a criterion, one point each for dense and local.

    The axis runs from every byte on the left to none on the right: the further right a curve stays up, the better.

    Args:
        ax: the panel.
        table: rows of `scores.shares_of_dense`.
        shown: rows of all panels.
        highest: share at the upper end of the axis; intervals are cut there, and a caret stands for a point above.
    """
    ax.axhline(1, color=style.INK, lw=0.6, zorder=1)
    for criterion in style.ordered(list(table["criterion"])):
        line, look = table[table["criterion"] == criterion], style.look(criterion, list(shown["criterion"]))
        share, low, high = (np.asarray(line[name]) for name in ("share", "low", "high"))
        reach = np.stack([share - low, high - share]).clip(min=0)
        marker, size = ("s", 4.5) if criterion in ("dense", "local") else (look.marker, 3.6)
        curve = ax.errorbar(line["kv_bytes"], share, yerr=reach, color=look.colour, ls=look.line, marker=marker,
                            ms=size, elinewidth=0.7, label=look.label, zorder=3)  # fmt: skip
        for bar in curve[2]:
            bar.set_alpha(0.35)
        for read in line.loc[line["share"] > highest, "kv_bytes"]:
            ax.plot(read, highest, marker=CARETUPBASE, color=look.colour, clip_on=False)
    ax.set(xlim=(max(1.04, shown["kv_bytes"].max() + 0.03), 0), ylim=(-0.04, highest))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.2))
        axis.set_major_formatter(PercentFormatter(1, decimals=0))


def cut_note(shown: pd.DataFrame, highest: float) -> list[str]:
    """Say in the footer whether intervals, or points too, lie beyond the upper end of the axis."""
    points = ", points above it are carets" if (shown["share"] > highest).any() else ""
    return [f"Intervals are cut at {100 * highest:.0f} %{points}."] if (shown["high"] > highest).any() else []


def name_rows(ax: Axes, labels: Sequence[str], **options: Any) -> None:
    """Name the rows 0, 1, ... of a plot of dots, from the top down."""
    ax.set_yticks(range(len(labels)), labels, **options)
    ax.set_ylim(len(labels) - 0.5, -0.5)


def share_map(ax: Axes, shares: pd.DataFrame, **options: Any) -> Any:
    """Draw shares as colours, with the index down and the columns across; return the image for a colour bar."""
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest", **options)
    for axis, labels, most in ((ax.xaxis, shares.columns, 15), (ax.yaxis, shares.index, 8)):
        step = max(1, len(labels) // most)
        axis.set_ticks(range(0, len(labels), step), [str(label) for label in labels[::step]])
    ax.grid(False)
    return image


def colour_bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    """Put a thin colour bar beside some panels."""
    figure.colorbar(image, ax=axes, label=label, pad=0.015, aspect=25)
