"""(l) In which layers a criterion calls heads local: its sparsity by layer, at one target.

Shapes: P prompts, L full-attention layers.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.tables import Setting, Tables

COLUMNS = ["benchmark", "length", "criterion", "target", "layer", "sparsity", "low", "high", "n"]


def draw(
    tables: Tables, title: dict[str, Any], target: float = 0.8, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> tuple[Figure, pd.DataFrame]:
    """Draw one heat map a criterion: layers across, benchmarks and lengths below each other.

    Args:
        tables: evaluation nodes.
        title: what the footer names.
        target: the nearest one evaluated is drawn.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        The figure and the table: `layer` counts the full-attention layers from 0; `sparsity` the share of local pairs,
        mean over all tasks, with its interval; `n` prompts.

    Raises:
        ConfigError: no criterion has a target.
    """
    rows = tables.rows.dropna(subset=["target"])
    if rows.empty:
        raise ConfigError("figure layers: no criterion has a target; add one such as oracle, or leave the figure out")
    nearest = min(rows["target"].unique(), key=lambda found: abs(found - target))
    parts = [
        _by_layer(part, resamples, seed).assign(
            criterion=part["criterion"].iloc[0], target=nearest, **scores.setting_of(part)
        )
        for _, part in rows[rows["target"] == nearest].groupby([*scores.SETTING, "criterion"], sort=True)
    ]
    table = pd.concat(parts, ignore_index=True)[COLUMNS]
    figure = _figure(table, float(nearest))
    widest = (table["high"] - table["low"]).max()
    method = bootstrap.METHOD.format(resamples=resamples)
    style.finish(figure, title, "Mean over all tasks, all seeds together.", f"{method}: in the table; the widest spans"
                 f" {widest:.2f}.", *scores.notes(rows))  # fmt: skip
    return figure, table


def _by_layer(rows: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """One row a layer, from one row a prompt."""
    values = np.array(rows["sparsity_layer"].tolist(), dtype=np.float64)  # [P, L]
    tasks = list(rows["task"])
    low, high = bootstrap.interval(bootstrap.resampled_weights(tasks, resamples, seed) @ values)
    mean = bootstrap.equal_weights(tasks) @ values
    columns = {"layer": range(len(mean)), "sparsity": mean, "low": low, "high": high}
    return pd.DataFrame(columns).assign(n=len(rows))


def _figure(table: pd.DataFrame, target: float) -> Figure:
    names, settings = style.ordered(list(table["criterion"])), table.groupby(scores.SETTING).ngroups
    figure = style.new_figure(style.DOUBLE, 0.6 + len(names) * (0.35 + 0.17 * settings))
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        image = _panel(ax, table[table["criterion"] == name])
        ax.set_title(f"{style.look(name, names).label}, target {target:g}")
    axes[-1].set_xlabel("full-attention layer")
    figure.colorbar(image, ax=list(axes), label="sparsity (share local)", pad=0.01, aspect=30)
    return figure


def _panel(ax: Axes, table: pd.DataFrame) -> Any:
    grid = table.pivot(index=scores.SETTING, columns="layer", values="sparsity")
    image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_yticks(range(len(grid)), [str(Setting(*setting)) for setting in grid.index])
    every = max(1, len(grid.columns) // 15)
    ax.set_xticks(range(0, len(grid.columns), every), list(grid.columns)[::every])
    ax.grid(False)
    return image
