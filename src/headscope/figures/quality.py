"""(i) How well each criterion tells pairs that need the bulk, measured offline on the dense model's own answers.

All pairs count the same. Shapes: N pairs.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from headscope.errors import ConfigError
from headscope.figures.common import pairs, style
from headscope.figures.common.tables import Tables
from headscope.heads import quality
from headscope.heads.cost import beyond_window
from headscope.heads.window import Window

LONG, TOP = 0.1, 0.9
"""Bulk shares above which a pair is long-context, and one that must not be missed."""
LOST, RECALLED_AT, ENERGY_AT = 0.01, 0.9, (0.8, 0.95)
EXACT = ("oracle", "oracle_output")
"""Kinds that read every key to decide: they have no cost of their own."""
WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
ENERGIES = ("lost_energy_80", "lost_energy_95")
"""Measures of which less is better."""
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
    """Draw each measure of each criterion; lengths by shade.

    Args:
        tables: evaluation, oracle, calibration and margins nodes; benchmarks of one length are pooled.
        title: what the footer names.

    Raises:
        ConfigError: no oracle node, no calibrated criterion, or no pair to judge by.
    """
    table = measured(tables)
    rule = f"Long: exact bulk share above {LONG:g} with the plain window."
    style.finish(figure := _figure(table), title, rule, "All pairs count the same; no interval.",
                 f"Recall: queries of the answer, at {RECALLED_AT:g} sparsity.",
                 "Lost energy: only where losses were recorded.", *_left_out(tables))  # fmt: skip
    return figure, table


def measured(tables: Tables) -> pd.DataFrame:
    """Return one row a length and calibrated criterion; all measures are shares, `cost` is in windows.

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
            place = {"criterion": name, "length": length, "scope": tables.scope, "cost": _cost(tables, name, length)}
            rows.append({**place, **_measures(of_length, name)})
    return pd.DataFrame(rows)


def _measures(of_length: pairs.Pairs, name: str) -> dict[str, float]:
    scores, share, answer = of_length.scores(name), of_length.bulk_share, of_length.answer
    long, lost = share > LONG, of_length.lost(name)
    found = {
        "auc": quality.auc(scores, long),
        "auc_within": quality.auc_within_heads(scores, long, of_length.heads),
        "average_precision": quality.average_precision(scores, long),
        "recall_top": quality.recall_at_sparsity(scores[answer], share[answer] > TOP, RECALLED_AT),
        "lost_mass_sparsity_1pct": quality.sparsity_at_lost_mass(scores, share, LOST),
    }
    for sparsity in ENERGY_AT:
        energy = np.nan if lost is None else quality.lost_energy(scores, lost, of_length.prompts, sparsity)
        found[f"lost_energy_{round(100 * sparsity)}"] = energy
    return found


def _cost(tables: Tables, name: str, length: int) -> float:
    """Bytes read beyond the window over the window's; NaN for what reads every key."""
    spec = next(node.spec for node in tables.evaluations if node.spec["length"] == length)
    if spec["criteria"][name]["kind"] in EXACT:
        return float("nan")
    window, width = Window(**spec["window"]), WIDTHS[spec["dtype"]]
    keys = max(length - window.sink - window.recent, 0)
    return beyond_window(spec["criteria"][name], window, spec["head_dim"], keys, width)


def _left_out(tables: Tables) -> list[str]:
    """Which tasks have no recorded margins, so that criteria would be judged on different pairs."""
    apart = {node.spec["task"] for node in tables.oracles} - {node.spec["task"] for node in tables.margins}
    return [f"Without {', '.join(sorted(apart))}: no recorded margins."] if tables.margins and apart else []


def _figure(table: pd.DataFrame) -> Figure:
    names, lengths = style.ordered(list(table["criterion"])), sorted(table["length"].unique())
    figure = style.new_figure(style.DOUBLE, 0.95 + 0.17 * len(names))
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        shades = style.shades(len(lengths))
        for offset, length, shade in zip(np.linspace(-0.2, 0.2, len(lengths)), lengths, shades, strict=True):
            values = table[table["length"] == length].set_index("criterion")[measure].reindex(names)
            ax.plot(values, np.arange(len(names)) + offset, "o", ms=3.2, color=shade, label=f"{length:,} tokens")
        ax.set_xlabel(label)
        ax.margins(x=0.12)
        if measure in ENERGIES:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(numticks=3))
            ax.tick_params("x", labelsize=6)
    axes[0].set_yticks(range(len(names)), [style.look(name, names).label.split(" (")[0] for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lengths))
    return figure
