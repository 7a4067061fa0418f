"""(i) How well each criterion tells pairs that need the bulk, measured offline on the dense model's own answers.

All pairs count the same. Shapes: N pairs.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from headscope.errors import ConfigError
from headscope.figures.common import pairs, panels, style
from headscope.figures.common.tables import Tables
from headscope.heads import quality

LONG, TOP = 0.1, 0.9
"""Bulk shares above which a pair is long-context, and one that must not be missed."""
LOST_MASS, RECALL_SPARSITY = 0.01, 0.9
EXACT = ("oracle", "oracle_output")
"""Kinds that read every key to decide."""
ENERGIES = {"lost_energy_80": 0.8, "lost_energy_95": 0.95}
"""Measures of which less is better, and their sparsities."""
MEASURES = {
    "auc": "AUC,\npooled",
    "auc_within": "AUC\nwithin heads",
    "average_precision": "average\nprecision",
    "recall_top": f"recall of\nshare > {TOP:g}",
    "lost_mass_sparsity_1pct": "sparsity at\n1 % lost mass",
    "lost_energy_80": "lost energy\nat 0.8",
    "lost_energy_95": "lost energy\nat 0.95",
}


def draw(tables: Tables, title: dict[str, Any]) -> tuple[Figure, pd.DataFrame]:
    """Draw each measure of each criterion; lengths by shade, benchmarks of one length pooled.

    Raises:
        ConfigError: no oracle node, no calibrated criterion, or no pair to judge by.
    """
    table = measures_of(tables)
    figure = _figure(table)
    style.finish(figure, title, f"Long: exact bulk share above {LONG:g} with the plain window.",
                 "All pairs count the same, no interval.",
                 f"Recall: queries of the answer, at {RECALL_SPARSITY:g} sparsity.",
                 "Lost energy (less is better): only where losses were recorded.",
                 *_tasks_without_margins(tables))  # fmt: skip
    return figure, table


def measures_of(tables: Tables) -> pd.DataFrame:
    """Return one row a length and calibrated criterion; all measures are shares.

    Raises:
        ConfigError: as `draw`.
    """
    lengths = sorted({setting.length for setting in tables.settings})
    names = style.ordered([name for name, spec in tables.criteria.items() if spec["calibrated_on"] is not None])
    if not names:
        raise ConfigError("this figure needs a criterion with thresholds (such as qada or static), or leave it out")
    rows = []
    for length in lengths:
        of_length = pairs.read(tables, length)
        for name in names:
            rows.append({"criterion": name, "length": length, "scope": tables.scope, **_measures(of_length, name)})
    return pd.DataFrame(rows)


def _measures(of_length: pairs.Pairs, name: str) -> dict[str, float]:
    scores, lost = of_length.judged(name)
    ranking, share, answer = quality.Ranking.of(scores), of_length.bulk_share, of_length.answer
    long = share > LONG
    counts, top = ranking.counts(long), quality.Ranking.of(scores[answer]).counts(share[answer] > TOP)
    energies = [np.nan] * len(ENERGIES)
    if lost is not None:
        energies = quality.lost_energies(ranking, lost, of_length.prompts, list(ENERGIES.values()))
    return {
        "auc": quality.auc(counts),
        "auc_within": quality.auc_within_heads(ranking, long, of_length.heads),
        "average_precision": quality.average_precision(counts),
        "recall_top": quality.recall_at_sparsity(top, RECALL_SPARSITY),
        "lost_mass_sparsity_1pct": quality.sparsity_at_lost_mass(ranking, share, LOST_MASS),
        **dict(zip(ENERGIES, energies, strict=True)),
    }


def _tasks_without_margins(tables: Tables) -> list[str]:
    """Name the tasks without recorded margins: criteria would be judged on different pairs there."""
    tasks = {node.spec["task"] for node in tables.oracles} - {node.spec["task"] for node in tables.margins}
    return [f"Without {', '.join(sorted(tasks))}: no recorded margins."] if tables.margins and tasks else []


def _figure(table: pd.DataFrame) -> Figure:
    names, lengths = style.ordered(list(table["criterion"])), sorted(table["length"].unique())
    figure = style.new_figure(style.DOUBLE, 0.95 + 0.17 * len(names))
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    shades, offsets = style.shades(len(lengths)), np.linspace(-0.2, 0.2, len(lengths))
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for offset, length, shade in zip(offsets, lengths, shades, strict=True):
            values = table[table["length"] == length].set_index("criterion")[measure].reindex(names)
            ax.plot(values, np.arange(len(names)) + offset, "o", ms=3.2, color=shade, label=f"{length:,} tokens")
        ax.set_xlabel(label)
        ax.margins(x=0.12)
        if measure in ENERGIES:
            _energy_axis(ax, table[measure])
    panels.name_rows(axes[0], [style.look(name, names).short for name in names])
    panels.legend(figure, len(lengths))
    return figure


def _energy_axis(ax: Axes, energies: pd.Series) -> None:
    """Make the axis logarithmic and label its least and largest value: a decade more or less fits in any case."""
    ends = energies[energies > 0].agg(["min", "max"]).dropna().unique()
    ax.set_xscale("log")
    ax.set_xticks(ends, [f"{end:.1g}".replace("e-0", "e-") for end in ends], fontsize=6)
    ax.xaxis.set_minor_locator(NullLocator())
