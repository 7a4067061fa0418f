"""(h) Scores at equal sparsity as shares of dense, their mean, and paired differences from baselines.

Shapes: A sparsities.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.comparisons import Comparison, judged
from headscope.figures.common.interpolation import SPARSITIES, InterpolatedScores, interpolate
from headscope.figures.common.scores import MEAN
from headscope.figures.common.tables import Tables

COLUMNS = ["length", "without", "criterion", "versus", "sparsity", "value", "low", "high", "verdict"]


def draw(
    tables: Tables,
    title: dict[str, Any],
    sparsities: Sequence[float] = SPARSITIES,
    baselines: Sequence[str] = ("oracle", "qada", "static"),
    without: Sequence[str] = ("niah_single_1",),
    resamples: int = bootstrap.RESAMPLES,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a length; benchmarks of one length are pooled.

    Args:
        tables: evaluation nodes.
        title: what the footer names.
        sparsities: where scores are compared, [A].
        baselines: criteria that the others are compared with; absent ones are left out.
        without: tasks; everything is given a second time without them.
        resamples: bootstrap resamples.
        floor: tasks on which dense scores less are in no mean.

    Returns:
        The figure and the table: `value` a share of dense at a sparsity or the mean of these; where `versus` names a
        baseline, the paired difference of the mean in points of score.

    Raises:
        ConfigError: dense was not evaluated.
    """
    scores.require_dense(tables.rows)
    records: list[dict[str, Any]] = []
    comparisons: list[Comparison] = []
    for length, rows in tables.rows.groupby("length", sort=True):
        for left_out, part in _variants(scores.drop_hard_tasks(rows, floor), without):
            interpolated, where = interpolate(part, sparsities, resamples), {"length": length, "without": left_out}
            records += [{**where, **record} for record in _shares(interpolated, sparsities)]
            comparisons += _comparisons(interpolated, baselines, where)
    table = pd.concat([pd.DataFrame(records), judged(comparisons, "value")], ignore_index=True).reindex(columns=COLUMNS)
    ring = [f"Ring: mean without {'+'.join(without)}."] if (table["without"] != "").any() else []
    figure = _figure(table[table["versus"] == ""], sparsities)
    style.finish(figure, title, "Score as a share of dense, interpolated in sparsity.", *ring,
                 f"{bootstrap.method(resamples)}, paired; of differences {bootstrap.CORRECTED}.",
                 *scores.notes(tables.rows, floor))  # fmt: skip
    return figure, table


def _variants(rows: pd.DataFrame, without: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield all tasks, then the tasks but those of `without`, if that leaves any and leaves out any."""
    yield "", rows
    part = rows[~rows["task"].isin(list(without))]
    if 0 < len(part) < len(rows):
        yield "+".join(without), part


def _shares(interpolated: InterpolatedScores, sparsities: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Yield the shares of dense of every criterion, sparsity by sparsity and their mean."""
    for name in style.ordered(list(interpolated.criteria)):
        for sparsity, draws in zip([*sparsities, MEAN], interpolated.shares(name).T, strict=True):
            estimate = bootstrap.estimate(draws[:, None])._asdict()
            interval = {column: float(values[0]) for column, values in estimate.items()}
            yield {"criterion": name, "versus": "", "sparsity": sparsity, **interval, "verdict": ""}


def _comparisons(
    interpolated: InterpolatedScores, baselines: Sequence[str], where: dict[str, Any]
) -> Iterator[Comparison]:
    """Yield the differences of every criterion from the baselines, means over the sparsities."""
    names = style.ordered(list(interpolated.criteria))
    for name in names:
        for baseline in (other for other in baselines if other in names and other != name):
            row = {**where, "criterion": name, "versus": baseline, "sparsity": MEAN}
            yield Comparison(row, interpolated.difference(name, baseline))


def _figure(table: pd.DataFrame, sparsities: Sequence[float]) -> Figure:
    lengths, names = sorted(table["length"].unique()), style.ordered(list(table["criterion"]))
    figure = style.new_figure(style.DOUBLE, 0.95 + 0.21 * len(names))
    axes = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False)[0]
    for ax, length in zip(axes, lengths, strict=True):
        for place, name in enumerate(names):
            part = table[(table["length"] == length) & (table["criterion"] == name)]
            _row(ax, place, part, style.look(name, names), sparsities)
        ax.axvline(1, color=style.INK, lw=0.6, zorder=1)
        ax.set(title=f"{length:,} tokens", xlabel="score, share of dense")
    panels.name_rows(axes[0], [style.look(name, names).short for name in names])
    axes[0].set_xlim(-0.03, None)
    panels.legend(figure, len(sparsities) + 2)
    return figure


def _row(ax: Axes, place: int, table: pd.DataFrame, look: style.Look, sparsities: Sequence[float]) -> None:
    """Draw one criterion: dots at each sparsity, the mean with its interval above, a ring without some tasks below."""
    shown, second = (table[(table["without"] == "") == all_tasks] for all_tasks in (True, False))
    values = dict(zip(shown["sparsity"], shown["value"], strict=True))
    for sparsity, shade in zip(sparsities, style.shades(len(sparsities)), strict=True):
        ax.plot(values[sparsity], place, "o", ms=2.8, color=shade, label=f"at {sparsity:g}", zorder=2)
    reach = shown.loc[shown["sparsity"] == MEAN, ["low", "high"]].to_numpy()[0]
    ax.plot(reach, [place - 0.22] * 2, color=look.colour, lw=1.2)
    ax.plot(values[MEAN], place - 0.22, "o", ms=4.2, color=look.colour, label="mean (colour: criterion)", zorder=3)
    ring = second.loc[second["sparsity"] == MEAN, "value"]
    ax.plot(ring, [place + 0.25] * len(ring), "o", ms=3.4, mfc="white", mec=look.colour, label="without some tasks")
    missing = [f"{sparsity:g}" for sparsity in sparsities if np.isnan(values[sparsity])]
    if missing:
        last = np.nanmax([0, *(values[sparsity] for sparsity in sparsities)])
        ax.annotate(f"no value: {', '.join(missing)}", (last, place), (5, 0), textcoords="offset points", va="center",
                    fontsize=5, color=style.GREY)  # fmt: skip
