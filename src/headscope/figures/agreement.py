"""(j) Which offline measure ranks criteria as generation does: rank correlation with the score kept.

Shapes: C criteria, B resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.kept import AT, kept
from headscope.figures.common.tables import Tables
from headscope.figures.quality import ENERGIES, EXACT, MEASURES, measured

Floats = NDArray[np.float64]
ALL = "all"
KEPT = "kept"
FEWEST = 5
"""Of fewer criteria even the perfect order comes about by chance in more than 5 % of cases: no correlation is given."""


def draw(
    tables: Tables,
    title: dict[str, Any],
    at: Sequence[float] = AT,
    slack: float = 0.0,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw Spearman's correlation of each measure with the score kept, by length and over all lengths.

    Args:
        tables: evaluation, oracle, calibration and margins nodes.
        title: what the footer names.
        at: sparsities over which the score kept is averaged.
        slack: a criterion that ends at most this far short of a sparsity takes its last point there.
        resamples: bootstrap resamples of the criteria.
        seed: of the bootstrap.
        floor: tasks on which dense scores less do not count.

    Raises:
        ConfigError: dense was not evaluated, or there is no pair to judge by.
    """
    pairs = _pairs(tables, at, slack, floor)
    table = pd.DataFrame(
        [
            {"length": length, "measure": measure, **_interval(values, resamples, seed)}
            for measure in MEASURES
            for length, values in _by_length(pairs, measure)
        ]
    )
    figure = _figure(table)
    style.finish(figure, title, "Criteria that decide for each query; those that read every key are left out.",
                 f"In brackets: how many have the measure; fewer than {FEWEST} have no correlation.",
                 "All: over the lengths, mean of the ranks within each.",
                 f"95 % intervals: percentile bootstrap over criteria, {resamples:,} resamples.")  # fmt: skip
    return figure, table


def _pairs(tables: Tables, at: Sequence[float], slack: float, floor: float) -> pd.DataFrame:
    """One row a length and adaptive criterion: measures, larger is better, and the mean share of the score kept."""
    table = measured(tables)
    table[list(ENERGIES)] *= -1
    found = {
        (length, name): shares
        for length, rows in tables.rows.groupby("length")
        for name, shares in _kept_means(scores.counted(rows, floor), at, slack).items()
    }
    places = list(zip(table["length"], table["criterion"], strict=True))
    table[KEPT] = [found.get(place, np.nan) for place in places]
    kinds = table["criterion"].map({name: spec["kind"] for name, spec in tables.criteria.items()})
    return table[~kinds.isin(["static", *EXACT])]


def _kept_means(rows: pd.DataFrame, at: Sequence[float], slack: float) -> dict[str, float]:
    found = kept(rows, at, 0, 0, slack)
    return {name: float(found.shares(name)[0, -1]) for name in found.points}


def _by_length(pairs: pd.DataFrame, measure: str) -> list[tuple[Any, Floats]]:
    """Measure and score of the criteria at each length, then their mean ranks over all lengths, each [C, 2]."""
    columns = [measure, KEPT]
    found: list[tuple[Any, Floats]] = [(n, part[columns].dropna().to_numpy()) for n, part in pairs.groupby("length")]
    known = pairs.dropna(subset=columns)
    everywhere = known[known.groupby("criterion")["length"].transform("size") == len(found)]
    ranks = everywhere.groupby("length")[columns].rank().groupby(everywhere["criterion"]).mean()
    return [*found, (ALL, ranks.to_numpy())]


def _interval(values: Floats, resamples: int, seed: int) -> dict[str, float]:
    """Correlation of the columns of [C, 2] and its interval; NaN for too few criteria."""
    count = len(values)
    found = float(spearman(values[None])[0]) if count >= FEWEST else np.nan
    if np.isnan(found):
        return {"spearman": np.nan, "low": np.nan, "high": np.nan, "criteria": count}
    draws = spearman(values[np.random.default_rng(seed).integers(count, size=(resamples, count))])
    low, high = bootstrap.interval(draws[~np.isnan(draws), None])  # one criterion drawn again and again has none
    return {"spearman": found, "low": low[0], "high": high[0], "criteria": count}


def spearman(values: Floats) -> Floats:
    """Rank correlation of the last axis' two columns, ties at their mean rank, [B, C, 2] to [B]; NaN if one is flat."""
    one, other = values[:, :, None], values[:, None]
    ranks = (one > other).sum(2) + (one == other).sum(2) / 2
    centred = ranks - ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(centred.prod(2).sum(1) / np.sqrt((centred**2).sum(1).prod(1)))


def _figure(table: pd.DataFrame) -> Figure:
    lengths = list(dict.fromkeys(table["length"]))
    figure = style.new_figure(style.DOUBLE, 2.9)
    ax = figure.subplots()
    shades = [*style.shades(len(lengths) - 1), "#D55E00"]
    for place, (length, shade) in enumerate(zip(lengths, shades, strict=True)):
        rows = table[table["length"] == length]
        x = np.arange(len(rows)) + (place - (len(lengths) - 1) / 2) * 0.16
        ax.vlines(x, rows["low"], rows["high"], color=shade, lw=1)
        label = "all lengths" if length == ALL else f"{length:,} tokens"
        ax.plot(x, rows["spearman"], "o", ms=4, color=shade, label=f"{label} (up to {rows['criteria'].max()})")
    ax.axhline(0, color=style.INK, lw=0.6)
    ax.set_xticks(range(len(MEASURES)), list(MEASURES.values()))
    ax.set(xlim=(-0.5, len(MEASURES) - 0.5), ylim=(-1.05, 1.05), ylabel="Spearman's correlation\nwith the score kept")
    ax.grid(axis="x", visible=False)
    figure.legend(loc="outside upper center", ncols=len(lengths))
    return figure
