"""(b) Which heads need the long context how often: layer x head map, and how steady each head is over prompts.

Shapes: P prompts, L full-attention layers, H query heads.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import panels, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Setting
from headscope.figures.common.oracle_rows import Block
from headscope.figures.common.tables import Tables

STEADY = 0.05
CLASSES = {"steady local": "#0072B2", "swinging": "#767676", "steady long": "#D55E00"}


def draw(
    tables: Tables, title: dict[str, Any], target: float = 0.65, steady: float = STEADY
) -> tuple[Figure, pd.DataFrame]:
    """Draw map, histogram and spread of each setting.

    Args:
        tables: oracle nodes, and the oracle's calibration where there is one.
        title: what the footer names.
        target: sparsity whose calibrated oracle threshold labels the pairs.
        steady: a head is steady if its long share is at most this, or at least 1 - this.
    """
    settings = tables.settings
    figure = style.new_figure(style.DOUBLE, 0.3 + 3.5 * len(settings))
    bands = figure.subfigures(len(settings), 1, squeeze=False)
    parts, origins = [], []
    for band, setting in zip(bands[:, 0], settings, strict=True):
        threshold, origin = tables.oracle_threshold(setting, target)
        table = _of_setting(tables, setting, threshold, steady)
        axes = band.subplot_mosaic([["map", "map"], ["histogram", "spread"]], height_ratios=[1.15, 1])
        _map(band, axes["map"], table, setting)
        _histogram(axes["histogram"], table, steady)
        _spread(axes["spread"], table)
        parts.append(table.assign(**setting._asdict(), threshold=threshold))
        origins.append(f"{setting}: {origin}.")
    rule = "Long: exact window share below tau. Every prompt counts the same."
    style.finish(figure, title, rule, *origins)
    return figure, pd.concat(parts, ignore_index=True)


def _of_setting(tables: Tables, setting: Setting, threshold: float, steady: float) -> pd.DataFrame:
    """Return one row a head: its long share, the spread over prompts, its class."""
    layers, heads = tables.heads(setting)
    shares = np.stack([_long_share(block, threshold, len(layers)) for block in tables.blocks(setting)])
    shares = shares.reshape(len(shares), -1)
    table = pd.MultiIndex.from_product([layers, range(heads)], names=["layer", "head"]).to_frame(index=False)
    mean = shares.mean(axis=0)
    table = table.assign(
        long_share=mean, spread=shares.std(axis=0), lowest=shares.min(axis=0), highest=shares.max(axis=0)
    )
    table["class"] = np.select([mean <= steady, mean >= 1 - steady], ["steady local", "steady long"], "swinging")
    return table


def _long_share(block: Block, threshold: float, layers: int) -> Floats:
    """Return the share of one prompt's queries for which each head is long, [L, H]."""
    long = block.local - block.bulk < threshold
    sums = np.zeros((layers, long.shape[1]))
    np.add.at(sums, block.layer, long)
    return sums / np.bincount(block.layer, minlength=layers)[:, None]


def _map(band: Any, ax: Axes, table: pd.DataFrame, setting: Setting) -> None:
    image = panels.share_map(ax, table.pivot(index="head", columns="layer", values="long_share"), origin="lower")
    ax.set(xlabel="layer", ylabel="query head", title=f"Share of queries that need the long context, {setting}")
    panels.colour_bar(band, image, ax, "long-context share")


def _histogram(ax: Axes, table: pd.DataFrame, steady: float) -> None:
    for name, colour in CLASSES.items():
        shares = table.loc[table["class"] == name, "long_share"]
        ax.hist(shares, list(np.linspace(0, 1, 21)), color=colour, label=f"{name}: {len(shares)} heads", rwidth=0.9)
    ax.set(xlabel="long-context share of the head", ylabel="heads", xlim=(0, 1))
    ax.set_title(f"Steady: share at most {steady:g} or at least {1 - steady:g}")
    ax.legend(loc="upper right")


def _spread(ax: Axes, table: pd.DataFrame) -> None:
    share = np.linspace(0, 1, 201)
    ax.plot(share, np.sqrt(share * (1 - share)), color=style.GREY, ls="--", lw=0.8)
    for (name, colour), marker in zip(CLASSES.items(), "os^", strict=True):
        members = table[table["class"] == name]
        ax.plot(members["long_share"], members["spread"], marker, color=colour, ms=2.4, alpha=0.7, mew=0)
    ax.set(xlabel="long-context share of the head", ylabel="std over prompts", xlim=(0, 1), ylim=(0, None))
    ax.set_title("Change from prompt to prompt (dashed: largest possible)")
