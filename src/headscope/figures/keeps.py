"""(h) Scores kept at equal sparsity: shares of dense, their mean, and paired differences against baselines.

Shapes: A sparsities.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.kept import AT, Kept, kept
from headscope.figures.common.tables import Tables

MEAN = "mean"
COLUMNS = ["length", "criterion", "without", "versus", "at", "keeps", "low", "high", "verdict"]


def draw(
    tables: Tables,
    title: dict[str, Any],
    at: Sequence[float] = AT,
    baselines: Sequence[str] = ("oracle", "qada", "static"),
    without: Sequence[str] = ("niah_single_1",),
    slack: float = 0.0,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a length.

    Args:
        tables: evaluation nodes; benchmarks of one length are pooled.
        title: what the footer names.
        at: sparsities, [A].
        baselines: criteria that the others are compared with; absent ones are left out.
        without: tasks that everything is given without, too.
        slack: a criterion that ends at most this far short of a sparsity takes its last point there.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        floor: tasks on which dense scores less are in no mean.

    Returns:
        The figure and the table: `keeps` a share of dense at a sparsity or their mean; where `versus` names a baseline,
        the paired difference of the mean in points of score.

    Raises:
        ConfigError: dense was not evaluated.
    """
    table = pd.DataFrame(
        [
            {"length": length, "without": name, **row}
            for length, rows in tables.rows.groupby("length", sort=True)
            for name, part in _variants(scores.counted(rows, floor), without)
            for row in _compared(kept(part, at, resamples, seed, slack), at, baselines)
        ]
    )[COLUMNS]
    figure = _figure(table[table["versus"] == ""], at)
    left_out = [f"Ring: mean without {'+'.join(without)}."] if (table["without"] != "").any() else []
    style.finish(figure, title, "Score as a share of dense, interpolated in sparsity.", *left_out,
                 bootstrap.METHOD.format(resamples=resamples) + ", paired.",
                 *scores.floor_notes(tables.rows, floor), *scores.notes(tables.rows))  # fmt: skip
    return figure, table


def _variants(rows: pd.DataFrame, without: Sequence[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """All tasks; then all but some, if that leaves any and leaves out any."""
    yield "", rows
    part = rows[~rows["task"].isin(list(without))]
    if 0 < len(part) < len(rows):
        yield "+".join(without), part


def _compared(found: Kept, at: Sequence[float], baselines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Values of every criterion, then its differences from the baselines."""
    names = style.ordered(list(found.points))
    for name in names:
        shares = found.shares(name)
        for place, value in enumerate([*at, MEAN]):
            yield {"criterion": name, "versus": "", "at": value, **_interval(shares[:, place]), "verdict": ""}
    for name in names:
        for other in (other for other in baselines if other in names and other != name):
            row = _interval(found.differences(name, other))
            verdict = "missing" if np.isnan(row["keeps"]) else scores.verdict(row["low"], row["high"])
            yield {"criterion": name, "versus": other, "at": MEAN, **row, "verdict": verdict}


def _interval(draws: Any) -> dict[str, float]:
    low, high = bootstrap.interval(draws[1:, None])
    # A difference that cancels out must be 0, not a rounding error with a sign.
    return {"keeps": round(float(draws[0]), 9), "low": round(float(low[0]), 9), "high": round(float(high[0]), 9)}


def _figure(table: pd.DataFrame, at: Sequence[float]) -> Figure:
    lengths, names = sorted(table["length"].unique()), style.ordered(list(table["criterion"]))
    figure = style.new_figure(style.DOUBLE, 0.95 + 0.21 * len(names))
    axes = figure.subplots(1, len(lengths), sharex=True, sharey=True, squeeze=False)[0]
    for ax, length in zip(axes, lengths, strict=True):
        for place, name in enumerate(names):
            _row(ax, place, table[(table["length"] == length) & (table["criterion"] == name)], names, at)
        ax.set(title=f"{length:,} tokens", xlabel="score, share of dense")
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(names)), [style.look(name, names).label.split(" (")[0] for name in names])
    axes[0].set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.03, None))
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=len(handles))
    return figure


def _row(ax: Axes, place: int, table: pd.DataFrame, names: list[str], at: Sequence[float]) -> None:
    """One criterion: small dots at each sparsity, the mean with its interval above, a ring without some tasks below."""
    look = style.look(table["criterion"].iloc[0], names)
    shown, rest = (table[(table["without"] == "") == whole] for whole in (True, False))
    values = dict(zip(shown["at"], shown["keeps"], strict=True))
    for value, shade in zip(at, style.shades(len(at)), strict=True):
        ax.plot(values[value], place, "o", ms=2.8, color=shade, label=f"at {value:g}", zorder=2)
    reach = shown.loc[shown["at"] == MEAN, ["low", "high"]].to_numpy()[0]
    ax.plot(reach, [place - 0.22] * 2, color=look.colour, lw=1.2)
    ax.plot(values[MEAN], place - 0.22, "o", ms=4.2, color=look.colour, label="mean (colour: criterion)", zorder=3)
    ring = rest.loc[rest["at"] == MEAN, "keeps"]
    ax.plot(ring, [place + 0.25] * len(ring), "o", ms=3.4, mfc="white", mec=look.colour, label="without some tasks")
    missing = [f"{value:g}" for value in at if np.isnan(values[value])]
    if missing:
        ax.text(0.98, place, f"no value: {', '.join(missing)}", transform=ax.get_yaxis_transform(), ha="right",
                va="center", fontsize=5, color=style.GREY)  # fmt: skip
