"""(l) In which layers a criterion calls heads local: its sparsity by layer, at one target.

Shapes: P prompts, L full-attention layers.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.node import Setting
from headscope.figures.common.scores import SETTING
from headscope.figures.common.tables import Tables

COLUMNS = ["benchmark", "length", "criterion", "target", "layer", "sparsity", "low", "high", "n"]


def draw(
    tables: Tables, title: dict[str, Any], target: float = 0.8, resamples: int = bootstrap.RESAMPLES
) -> tuple[Figure, pd.DataFrame]:
    """Draw one heat map a criterion, at the evaluated target nearest to `target`: layers across, settings below.

    Returns:
        The figure and the table: `layer` counts the full-attention layers from 0; `sparsity` the share of local pairs,
        mean over all tasks, with its interval; `n` prompts.

    Raises:
        ConfigError: no criterion has a target.
    """
    rows = tables.rows
    scores.require_targets(rows, "layers")
    rows = rows[rows["target"] == scores.nearest_target(rows, target)]
    parts = [_by_layer(part, resamples) for _, part in rows.groupby([*SETTING, "criterion"], sort=True)]
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    widest = (table["high"] - table["low"]).max()
    figure = _figure(table)
    method = f"{bootstrap.method(resamples)}: in the table; the widest spans {widest:.2f}."
    style.finish(figure, title, "Mean over all tasks, all seeds together.", method, *scores.notes(rows))
    return figure, table


def _by_layer(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Average the prompts of one criterion and setting, layer by layer."""
    values = np.array(rows["sparsity_layer"].tolist(), dtype=np.float64)  # [P, L]
    mean, low, high = bootstrap.mean(values, list(rows["task"]), resamples)
    same = dict(rows[[*SETTING, "criterion", "target"]].iloc[0])
    table = pd.DataFrame({"layer": range(len(mean)), "sparsity": mean, "low": low, "high": high})
    return table.assign(n=len(rows), **same)


def _figure(table: pd.DataFrame) -> Figure:
    names, settings = style.ordered(list(table["criterion"])), table.groupby(SETTING).ngroups
    figure = style.new_figure(style.DOUBLE, 0.6 + len(names) * (0.35 + 0.17 * settings))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        part = table[table["criterion"] == name]
        shares = part.pivot(index=SETTING, columns="layer", values="sparsity")
        image = panels.share_map(ax, shares.set_axis([str(Setting(*setting)) for setting in shares.index]))
        ax.set_title(f"{style.look(name, names).label}, target {part['target'].iloc[0]:g}")
    axes[-1].set_xlabel("full-attention layer")
    panels.colour_bar(figure, image, list(axes), "sparsity (share local)")
    return figure
