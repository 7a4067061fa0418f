"""(j) Which offline measure ranks criteria as generation does: rank correlation with the share of the dense score.

Shapes: C criteria, B resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.interpolation import SPARSITIES, interpolate
from headscope.figures.common.tables import Tables
from headscope.figures.quality import ENERGIES, EXACT, MEASURES, measures_of

ALL = "all"
SHARE = "score_share"
FEWEST = 5
"""Of fewer criteria even the perfect order comes about by chance in more than 5 % of cases: no correlation is shown."""


def draw(
    tables: Tables,
    title: dict[str, Any],
    sparsities: Sequence[float] = SPARSITIES,
    resamples: int = bootstrap.RESAMPLES,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw Spearman's correlation of each measure with the score as a share of dense, by length and over all lengths.

    Args:
        tables: evaluation, oracle, calibration and margins nodes.
        title: what the footer names.
        sparsities: where the shares of the dense score are read off, then averaged.
        resamples: bootstrap resamples of the criteria.
        floor: tasks on which dense scores less do not count.

    Raises:
        ConfigError: dense was not evaluated, or there is no pair to judge by.
    """
    criteria = _criteria(tables, sparsities, floor)
    records = [
        {"length": length, "measure": measure, **_correlation(values, resamples)}
        for measure in MEASURES
        for length, values in _by_length(criteria, measure)
    ]
    table = pd.DataFrame(records)
    figure = _figure(table)
    style.finish(figure, title, "Criteria that decide for each query; those that read every key are left out.",
                 f"In brackets: how many have the measure; fewer than {FEWEST} have no correlation.",
                 "All: over the lengths, mean of the ranks within each.",
                 f"95 % intervals: percentile bootstrap over criteria, {resamples:,} resamples.")  # fmt: skip
    return figure, table


def _criteria(tables: Tables, sparsities: Sequence[float], floor: float) -> pd.DataFrame:
    """Return one row a length and adaptive criterion: measures, larger is better, and its mean share of dense."""
    scores.require_dense(tables.rows)
    shares: dict[Any, float] = {}
    for length, rows in tables.rows.groupby("length"):
        interpolated = interpolate(scores.drop_hard_tasks(rows, floor), sparsities, resamples=0)
        shares |= {(length, name): float(interpolated.shares(name)[0, -1]) for name in interpolated.criteria}
    table = measures_of(tables)
    table[list(ENERGIES)] *= -1
    table[SHARE] = [shares.get(key, np.nan) for key in zip(table["length"], table["criterion"], strict=True)]
    kinds = table["criterion"].map({name: spec["kind"] for name, spec in tables.criteria.items()})
    return table[~kinds.isin(["static", *EXACT])]


def _by_length(criteria: pd.DataFrame, measure: str) -> list[tuple[Any, Floats]]:
    """Return measure and score share of the criteria at each length, then mean ranks over all lengths, each [C, 2]."""
    columns = [measure, SHARE]
    known = criteria.dropna(subset=columns)
    values: list[tuple[Any, Floats]] = [
        (length, known.loc[known["length"] == length, columns].to_numpy())
        for length in sorted(criteria["length"].unique())
    ]
    everywhere = known[known.groupby("criterion")["length"].transform("size") == len(values)]
    ranks = everywhere.groupby("length")[columns].rank().groupby(everywhere["criterion"]).mean()
    return [*values, (ALL, ranks.to_numpy())]


def _correlation(values: Floats, resamples: int) -> dict[str, float]:
    """Return the correlation of the columns of [C, 2] with its interval; NaN for too few criteria."""
    count = len(values)
    value = float(bootstrap.rank_correlation(*values.T[:, None])[0]) if count >= FEWEST else np.nan
    if np.isnan(value):
        return {"spearman": np.nan, "low": np.nan, "high": np.nan, "criteria": count}
    resampled = values.T[:, np.random.default_rng(0).integers(count, size=(resamples, count))]
    draws = bootstrap.rank_correlation(*resampled)
    low, high = bootstrap.interval(draws[~np.isnan(draws), None])  # one criterion drawn again and again has none
    return {"spearman": value, "low": low[0], "high": high[0], "criteria": count}


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
    ax.set(xlim=(-0.5, len(MEASURES) - 0.5), ylim=(-1.05, 1.05))
    ax.set_ylabel("Spearman's correlation with\nthe share of the dense score")
    ax.grid(axis="x", visible=False)
    panels.legend(figure, len(lengths))
    return figure
