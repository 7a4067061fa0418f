"""(d) ROC of each predictor against the oracle's labels, pooled and within heads.

Scores are counted in bins of log-odds, so that no pair is kept. Shapes: P prompts, N heads over all layers, S bins.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, style
from headscope.figures.common.bootstrap import Floats
from headscope.figures.common.node import Setting
from headscope.figures.common.oracle_rows import Block
from headscope.figures.common.tables import Tables, targets_calling_long
from headscope.heads import quality

BINS, LARGEST = 400, 1e4
GRID = np.linspace(0, 1, 201)


@dataclass
class Counts:
    """Counted scores of one predictor in one setting.

    Attributes:
        heads: shares of pairs by class (local, long), head and bin, summed over prompts, [2, N, S].
        pairs: number of pairs by class and head, [2, N].
        prompts: each prompt's share of pairs by class and bin, P x [2, S].
    """

    heads: Floats
    pairs: Floats
    prompts: list[Floats] = field(default_factory=list)

    def add(self, block: Block, scores: Floats, long: Any) -> None:
        """Count one prompt's pairs; `scores` and `long` are [R, H]."""
        shape = self.heads.shape
        flat = ((long * shape[1] + block.heads) * BINS + _bin(scores)).ravel()
        counts = np.bincount(flat, minlength=self.heads.size).reshape(shape)
        self.heads += counts / flat.size
        self.pairs += counts.sum(axis=2)
        self.prompts.append(counts.sum(axis=1) / flat.size)


def _bin(scores: Floats) -> Any:
    """Return the bin of each log-odds, evenly spaced in its inverse hyperbolic sine: fine near 0, wide in the tails."""
    top = np.arcsinh(LARGEST)
    return ((np.clip(np.arcsinh(scores), -top, top) / top + 1) / 2 * (BINS - 1)).round().astype(np.int64)


def draw(
    tables: Tables, title: dict[str, Any], target: float = 0.8, resamples: int = bootstrap.RESAMPLES
) -> tuple[Figure, pd.DataFrame]:
    """Draw pooled and mean within-head curves of each setting against the oracle's labels at `target` sparsity."""
    settings = tables.settings
    figure = style.new_figure(style.DOUBLE, 0.35 + 3.1 * len(settings))
    axes = figure.subplots(len(settings), 2, squeeze=False)
    parts, origins = [], []
    for row, setting in zip(axes, settings, strict=True):
        threshold, origin = tables.oracle_threshold(setting, target)
        origins.append(f"{setting}: {origin}.")
        counts, tasks = _count(tables, setting, threshold)
        curves = {"pooled": _pooled(counts, tasks, resamples), "within heads": _within(counts)}
        for ax, (scope, table) in zip(row, curves.items(), strict=True):
            _panel(ax, table, f"{scope}, {setting}", list(tables.criteria))
            parts.append(table.assign(scope=scope, **setting._asdict(), threshold=threshold))
    within = f"Within heads: mean over heads with at least {quality.FEWEST} pairs of each class, no interval."
    pooled = f"Pooled: {bootstrap.method(resamples)}."
    style.finish(figure, title, "Long: exact window share below tau.", *origins, within, pooled)
    return figure, pd.concat(parts, ignore_index=True)


def predictors(tables: Tables) -> dict[str, str | None]:
    """Return the criteria that predict, with their estimator; static rankings have none.

    Raises:
        ConfigError: the experiment has no such criterion.
    """
    names = {}
    for name in style.ordered(list(tables.criteria)):
        spec = tables.criteria[name]
        estimator = (spec.get("estimator") or {}).get("name")
        if spec.get("outliers") or spec["kind"] == "lost_output":
            continue  # its margins are not those of the plain window's masses
        if estimator in tables.estimators or spec["kind"] == "static":
            names[name] = estimator
    if not names:
        raise ConfigError("figure roc needs a criterion that predicts (such as qada or static), or leave it out")
    return names


def _count(tables: Tables, setting: Setting, threshold: float) -> tuple[dict[str, Counts], list[str]]:
    """Count the scores of each predictor in one pass over the oracle tables; also name each prompt's task."""
    layers, width = tables.heads(setting)
    size, names = len(layers) * width, predictors(tables)
    counts = {name: Counts(np.zeros((2, size, BINS)), np.zeros((2, size))) for name in names}
    tasks = []
    for block in tables.blocks(setting, [name for name in names.values() if name]):
        tasks.append(block.task)
        long = block.local - block.bulk < threshold
        for name, estimator in names.items():
            if estimator:
                scores = block.estimates[estimator] - block.local
            else:
                calibration = tables.calibrated(name, setting, block.task)
                assert calibration is not None, f"{name} was evaluated, so it was calibrated"
                scores = targets_calling_long(calibration)[block.layer]
            counts[name].add(block, scores, long)
    return counts, tasks


def _pooled(counts: dict[str, Counts], tasks: list[str], resamples: int) -> pd.DataFrame:
    weights, parts = bootstrap.all_weights(tasks, resamples), []
    for name, of_name in counts.items():
        draws = np.tensordot(weights, np.stack(of_name.prompts), 1)  # [1 + B, 2, S]
        false, true = quality.roc_from_counts(draws[:, 1], draws[:, 0])
        auc, low, high = bootstrap.estimate(quality.area(false, true)[:, None])
        table = pd.DataFrame({"criterion": name, "false_rate": false[0], "true_rate": true[0]}).drop_duplicates()
        parts.append(table.assign(auc=auc[0], low=low[0], high=high[0]))
    return pd.concat(parts, ignore_index=True)


def _within(counts: dict[str, Counts]) -> pd.DataFrame:
    parts = []
    for name, of_name in counts.items():
        local, long = of_name.heads[:, of_name.pairs.min(axis=0) >= quality.FEWEST]
        false, true = quality.roc_from_counts(long, local)
        curves = [np.interp(GRID, x, y) for x, y in zip(false, true, strict=True)]
        mean = np.mean(curves, axis=0) if curves else np.full(len(GRID), np.nan)
        area = quality.area(false, true).mean() if curves else np.nan
        table = pd.DataFrame({"criterion": name, "false_rate": GRID, "true_rate": mean})
        parts.append(table.assign(auc=area, heads=len(curves)))
    return pd.concat(parts, ignore_index=True)


def _panel(ax: Axes, table: pd.DataFrame, title: str, names: list[str]) -> None:
    ax.axline((0, 0), slope=1, color=style.GREY, lw=0.6, ls=":")
    for criterion in table["criterion"].unique():
        curve, look = table[table["criterion"] == criterion], style.look(criterion, names)
        first = curve.iloc[0]
        area = "none" if np.isnan(first["auc"]) else f"{first['auc']:.3f}"
        area += f" [{first['low']:.3f}, {first['high']:.3f}]" if "low" in curve else ""
        # Without a head that has both classes there is no curve, and matplotlib cannot space markers on none.
        spacing = 0.12 if curve["true_rate"].notna().any() else None
        ax.plot(curve["false_rate"], curve["true_rate"], color=look.colour, ls=look.line, marker=look.marker,
                markevery=spacing, ms=3, label=f"{look.short}: {area}")  # fmt: skip
    heads = f" ({int(table['heads'].iloc[0])} heads)" if "heads" in table else ""
    ax.set(xlim=(0, 1), ylim=(0, 1.01), title=title + heads)
    ax.set(xlabel="false long rate (share of local pairs)", ylabel="recall (share of long pairs)")
    style.share_axis(ax.xaxis)
    style.share_axis(ax.yaxis)
    ax.legend(loc="lower right", title="AUC", title_fontsize=6.5, handlelength=3, frameon=True, edgecolor="none")
