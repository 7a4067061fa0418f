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
from headscope.figures.common.tables import Block, Floats, Setting, Tables
from headscope.heads import quality

BINS, LARGEST = 400, 1e4
GRID = np.linspace(0, 1, 201)


@dataclass
class Counts:
    """Counted scores of one predictor in one setting.

    Attributes:
        pooled: each prompt's share of pairs by class (local, long) and bin, [P] x [2, S].
        heads: the same by head, summed over prompts, [2, N, S].
        pairs: unweighted pairs by class and head, [2, N].
    """

    heads: Floats
    pairs: Floats
    pooled: list[Floats] = field(default_factory=list)

    def add(self, block: Block, scores: Floats, long: Any) -> None:
        """Count one prompt's pairs; `scores` and `long` are [R, H]."""
        shape = self.heads.shape
        flat = ((long * shape[1] + block.heads) * BINS + _bin(scores)).ravel()
        counts = np.bincount(flat, minlength=self.heads.size).reshape(shape)
        self.heads += counts / flat.size
        self.pairs += counts.sum(axis=2)
        self.pooled.append(counts.sum(axis=1) / flat.size)


def _bin(scores: Floats) -> Any:
    """Bin of each log-odds, evenly spaced in its inverse hyperbolic sine: fine near 0, wide in the tails."""
    top = np.arcsinh(LARGEST)
    return ((np.clip(np.arcsinh(scores), -top, top) / top + 1) / 2 * (BINS - 1)).round().astype(np.int64)


def draw(
    tables: Tables, title: dict[str, Any], target: float = 0.8, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> tuple[Figure, pd.DataFrame]:
    """Draw pooled and mean within-head curves of each setting against the oracle's labels at `target` sparsity."""
    settings = tables.settings
    figure = style.new_figure(style.DOUBLE, 0.35 + 3.1 * len(settings))
    axes = figure.subplots(len(settings), 2, squeeze=False)
    parts, origins = [], []
    for row, setting in zip(axes, settings, strict=True):
        threshold, origin = tables.oracle_threshold(setting, target)
        origins.append(f"{setting}: {origin}.")
        counted, tasks = _count(tables, setting, threshold)
        curves = {"pooled": _pooled(counted, tasks, resamples, seed), "within heads": _within(counted)}
        for ax, (scope, table) in zip(row, curves.items(), strict=True):
            _panel(ax, table, f"{scope}, {setting}", list(tables.criteria))
            parts.append(table.assign(scope=scope, **setting._asdict(), threshold=threshold))
    rule = f"Within heads: mean over heads with at least {quality.FEWEST} pairs of each class, no interval. Pooled: "
    style.finish(
        figure,
        title,
        "Long: exact window share below tau.",
        *origins,
        rule + bootstrap.METHOD.format(resamples=resamples) + ".",
    )
    return figure, pd.concat(parts, ignore_index=True)


def predictors(tables: Tables) -> dict[str, str | None]:
    """Criteria that predict, with their estimator; static rankings have none.

    Raises:
        ConfigError: the experiment has no such criterion.
    """
    found = {}
    for name in style.ordered(list(tables.criteria)):
        spec = tables.criteria[name]
        estimator = (spec.get("estimator") or {}).get("name")
        if spec.get("outliers") or spec["kind"] == "lost_output" or spec.get("fit") not in (None, "none"):
            continue  # its margins are not those of the plain window's masses
        if estimator in tables.estimators or spec["kind"] == "static":
            found[name] = estimator
    if not found:
        raise ConfigError("figure roc needs a criterion that predicts (such as qada or static), or leave it out")
    return found


def _count(tables: Tables, setting: Setting, threshold: float) -> tuple[dict[str, Counts], list[str]]:
    """One pass over the oracle tables of a setting."""
    layers, width = tables.heads(setting)
    size, names = len(layers) * width, predictors(tables)
    counted = {name: Counts(np.zeros((2, size, BINS)), np.zeros((2, size))) for name in names}
    tasks = []
    for block in tables.blocks(setting, [name for name in names.values() if name]):
        tasks.append(block.task)
        long = block.local - block.bulk < threshold
        for name, estimator in names.items():
            if estimator:
                scores = block.estimates[estimator] - block.local
            else:
                scores = _ranking(tables, name, setting, block.task)[block.layer]
            counted[name].add(block, scores, long)
    return counted, tasks


def _ranking(tables: Tables, criterion: str, setting: Setting, task: str) -> Floats:
    """At how many targets a static criterion calls each head long, [L, H]: its ranking as far as it decides."""
    calibration = tables.calibrated(criterion, setting, task)
    assert calibration is not None, f"{criterion} was evaluated, so it was calibrated"
    return np.asarray(np.sum([target["long"] for target in calibration["targets"].values()], axis=0, dtype=np.float64))


def _pooled(counted: dict[str, Counts], tasks: list[str], resamples: int, seed: int) -> pd.DataFrame:
    point, weights = bootstrap.equal_weights(tasks), bootstrap.resampled_weights(tasks, resamples, seed)
    parts = []
    for name, counts in counted.items():
        prompts = np.stack(counts.pooled)
        local, long = np.tensordot(point, prompts, 1)
        false, true = quality.roc_from_counts(long, local)
        drawn = np.tensordot(weights, prompts, 1)
        low, high = bootstrap.interval(quality.area(*quality.roc_from_counts(drawn[:, 1], drawn[:, 0]))[:, None])
        table = pd.DataFrame({"criterion": name, "false_rate": false, "true_rate": true}).drop_duplicates()
        parts.append(table.assign(auc=quality.area(false, true), low=low[0], high=high[0]))
    return pd.concat(parts, ignore_index=True)


def _within(counted: dict[str, Counts]) -> pd.DataFrame:
    parts = []
    for name, counts in counted.items():
        local, long = counts.heads[:, counts.pairs.min(axis=0) >= quality.FEWEST]
        false, true = quality.roc_from_counts(long, local)
        curves = [np.interp(GRID, x, y) for x, y in zip(false, true, strict=True)]
        mean = np.mean(curves, axis=0) if curves else np.full(len(GRID), np.nan)
        area = quality.area(false, true).mean() if curves else np.nan
        parts.append(
            pd.DataFrame({"criterion": name, "false_rate": GRID, "true_rate": mean, "auc": area, "heads": len(curves)})
        )
    return pd.concat(parts, ignore_index=True)


def _panel(ax: Axes, table: pd.DataFrame, name: str, names: list[str]) -> None:
    ax.axline((0, 0), slope=1, color=style.GREY, lw=0.6, ls=":")
    for criterion in table["criterion"].unique():
        curve, look = table[table["criterion"] == criterion], style.look(criterion, names)
        first = curve.iloc[0]
        area = "none" if np.isnan(first["auc"]) else f"{first['auc']:.3f}"
        area += f" [{first['low']:.3f}, {first['high']:.3f}]" if "low" in curve else ""
        # Without a head that has both classes there is no curve, and matplotlib cannot space markers on none.
        spacing = 0.12 if curve["true_rate"].notna().any() else None
        ax.plot(curve["false_rate"], curve["true_rate"], color=look.colour, ls=look.line, marker=look.marker,
                markevery=spacing, ms=3, label=f"{look.label.split(' (')[0]}: {area}")  # fmt: skip
    heads = f" ({int(table['heads'].iloc[0])} heads)" if "heads" in table else ""
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1.01),
        xlabel="false long rate (share of local pairs)",
        ylabel="recall (share of long pairs)",
    )
    ax.set_title(name + heads)
    style.share_axis(ax.xaxis)
    style.share_axis(ax.yaxis)
    ax.legend(loc="lower right", title="AUC", title_fontsize=6.5, handlelength=3, frameon=True, edgecolor="none")
