"""(c) Predicted against true bulk log mass of each estimator, and one head's scores against the Gaussian (Q-Q).

Shapes: P prompts, B resamples, G grid cells a side.
"""

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from headscope.figures.common import bootstrap, panels, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Setting
from headscope.figures.common.oracle_rows import matrix
from headscope.figures.common.tables import Tables

CELL, REACH = 0.25, 100.0
CENTRES = np.arange(-REACH, REACH + CELL / 2, CELL)
"""Grid of log masses in nats; a value beyond it counts in the outermost cell."""
NORMAL = np.array([NormalDist().inv_cdf(percent / 100) for percent in range(1, 100)])


def draw(tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES) -> tuple[Figure, pd.DataFrame]:
    """Draw one panel a setting and estimator; the first of each setting holds the Q-Q plot of its typical head."""
    settings, estimators = tables.settings, tables.needed_estimators()
    width = style.DOUBLE if len(estimators) > 1 else style.SINGLE
    figure = style.new_figure(width, 0.3 + 3.0 * len(settings))
    axes = figure.subplots(len(settings), len(estimators), squeeze=False)
    parts = []
    for row, setting in zip(axes, settings, strict=True):
        for ax, (name, (cells, statistics)) in zip(row, _fits(tables, setting, resamples).items(), strict=True):
            label = style.look(tables.criterion_of(name), [*tables.criteria, *estimators]).label
            _panel(figure, ax, cells, statistics, f"{label}, {setting}")
            parts += [part.assign(**setting._asdict(), estimator=name) for part in (cells, statistics)]
        quantiles = typical_head(tables.quantiles(setting))
        _inset(row[0], quantiles)
        parts.append(quantiles.assign(part="quantiles", **setting._asdict()))
    style.finish(figure, title, "Log masses in nats; every prompt counts the same.",
                 f"In brackets: {bootstrap.method(resamples)}.",
                 "Inset: the head with the median departure from the Gaussian, one line a query.")  # fmt: skip
    return figure, pd.concat(parts, ignore_index=True)


def _fits(tables: Tables, setting: Setting, resamples: int) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Return grid cells and statistics of each estimator, from one pass over the oracle tables."""
    size = len(CENTRES)
    grids = {name: np.zeros(size * size) for name in tables.estimators}
    moments: dict[str, list[Floats]] = {name: [] for name in tables.estimators}
    tasks = []
    for block in tables.blocks(setting, tables.estimators):
        tasks.append(block.task)
        true = block.bulk.ravel()
        for name, estimate in block.estimates.items():
            guess = estimate.ravel()
            grids[name] += np.bincount(_cell(true) * size + _cell(guess), minlength=size * size) / true.size
            moments[name].append(np.array([np.mean(v) for v in (true, guess, true**2, guess**2, true * guess)]))
    weights = bootstrap.all_weights(tasks, resamples)
    return {name: (_cells(grids[name] / len(tasks)), _statistics(weights @ np.stack(moments[name]))) for name in grids}


def _cell(values: Floats) -> Any:
    return (np.clip(values, -REACH, REACH) / CELL).round().astype(np.int64) + round(REACH / CELL)


def _cells(grid: Floats) -> pd.DataFrame:
    used = np.flatnonzero(grid)
    true, predicted = np.divmod(used, len(CENTRES))
    columns = {"part": "histogram", "true": CENTRES[true], "predicted": CENTRES[predicted], "share": grid[used]}
    return pd.DataFrame(columns)


def _statistics(moments: Floats) -> pd.DataFrame:
    """Return correlation, bias (predicted - true) and root mean square error with intervals, of moments [1 + B, 5]."""
    x, y, xx, yy, xy = moments.T
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = (xy - x * y) / np.sqrt((xx - x**2) * (yy - y**2))
    draws = np.stack([correlation, y - x, np.sqrt(np.maximum(xx + yy - 2 * xy, 0))], axis=1)
    return pd.DataFrame({"part": ["correlation", "bias", "RMSE"], **bootstrap.estimate(draws)._asdict()})


def _panel(figure: Figure, ax: Axes, cells: pd.DataFrame, statistics: pd.DataFrame, name: str) -> None:
    (left, right), y = _limits(cells["true"], cells["share"]), _limits(cells["predicted"], cells["share"])
    bins = (_edges(left, right), _edges(*y))
    grid, *edges = np.histogram2d(cells["true"], cells["predicted"], bins=bins, weights=cells["share"])
    scale = LogNorm(float(np.quantile(grid[grid > 0], 0.1)), float(grid.max()))
    shown = np.where(grid > 0, grid, np.nan).T
    image = ax.pcolormesh(*edges, shown, cmap="cividis_r", norm=scale, rasterized=True)
    ax.axline((0, 0), slope=1, color="#D55E00", lw=0.8, ls="--")
    # Beside the cloud there is room for the inset.
    ax.set(xlim=(left, right + 0.6 * (right - left)), ylim=y)
    ax.set(xlabel="true bulk log mass (nats)", ylabel="predicted bulk log mass (nats)")
    lines = [f"{row.part} {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in style.records(statistics)]
    ax.set_title("\n".join([name, f"{lines[0]}; {lines[1]} nats", f"{lines[2]} nats"]), fontsize=6.5)
    panels.colour_bar(figure, image, ax, "share of pairs")


def _edges(low: float, high: float) -> Floats:
    """Return the edges of at most 60 drawn cells, each a whole number of counted ones."""
    step = CELL * max(1, round((high - low) / CELL / 60))
    return np.arange(round(low / CELL) * CELL - CELL / 2, high + step, step)


def _limits(values: pd.Series, weights: pd.Series) -> tuple[float, float]:
    """Return both ends of the middle 99.8 % of the weight, a little widened."""
    order = np.argsort(values.to_numpy())
    cumulated = np.cumsum(weights.to_numpy()[order]) / weights.sum()
    low, high = values.to_numpy()[order][np.searchsorted(cumulated, [0.001, 0.999])]
    return low - 1, high + 1


def typical_head(quantiles: pa.Table) -> pd.DataFrame:
    """Return standardised score quantiles of the head with the median root-mean-square departure from the Gaussian.

    Args:
        quantiles: rows of `score_quantiles.parquet`.

    Returns:
        layer, head, query (a running number), normal (Gaussian quantile), standardised (score quantile).
    """
    frame = quantiles.select(["layer", "head", "mean", "std"]).to_pandas()
    standard = (matrix(quantiles["quantiles"]) - frame[["mean"]].to_numpy()) / frame[["std"]].to_numpy()
    frame["departure"] = np.sqrt(((standard - NORMAL) ** 2).mean(axis=1))
    heads = frame.groupby(["layer", "head"])["departure"].mean().dropna().sort_values()
    layer, head = heads.index[(len(heads) - 1) // 2]
    chosen = np.flatnonzero((frame["layer"] == layer) & (frame["head"] == head) & (frame["std"] > 0))
    columns = {"layer": layer, "head": head, "query": np.repeat(np.arange(len(chosen)), len(NORMAL))}
    return pd.DataFrame({**columns, "normal": np.tile(NORMAL, len(chosen)), "standardised": standard[chosen].ravel()})


def _inset(ax: Axes, quantiles: pd.DataFrame) -> None:
    # White below the inset's own labels, or the diagonal would cross them.
    ax.add_patch(Rectangle((0.63, 0.0), 0.37, 0.54, transform=ax.transAxes, color="white", lw=0, zorder=4))
    inset = ax.inset_axes((0.74, 0.12, 0.25, 0.36))
    for _, line in quantiles.groupby("query"):
        inset.plot(line["normal"], line["standardised"], color="#0072B2", lw=0.4, alpha=0.35)
    inset.axline((0, 0), slope=1, color="#D55E00", lw=0.8, ls="--")
    head = quantiles.iloc[0]
    inset.set_title(f"Q-Q, layer {head['layer']:g} head {head['head']:g}", fontsize=5.5, pad=2)
    inset.set_xlabel("Gaussian", fontsize=5.5, labelpad=1)
    inset.set_ylabel("score / std", fontsize=5.5, labelpad=1)
    inset.tick_params(labelsize=5, length=2, pad=1)
