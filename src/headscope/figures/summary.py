"""(f) Where the criteria stand at the targets that matter: scores, achieved sparsity and paired differences."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, panels, scores, style
from headscope.figures.common.comparisons import Comparison, judged
from headscope.figures.common.scores import SETTING
from headscope.figures.common.tables import Tables

TARGETS = (0.65, 0.8)
PAIRS = (
    ("oracle", "qada"),
    ("qada", "qada_random_words"),
    ("qada", "static"),
    ("qada", "static_oracle"),
    ("oracle", "static"),
)
VERDICTS = {"better": ("#0072B2", True), "worse": ("#D55E00", True), "inconclusive": (style.GREY, False)}
"""Colour of a verdict, and whether its marker is filled."""


def draw(
    tables: Tables,
    title: dict[str, Any],
    targets: Sequence[float] = TARGETS,
    pairs: Sequence[Sequence[str]] = PAIRS,
    resamples: int = bootstrap.RESAMPLES,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw scores (left) and paired differences (right) of each setting and target, means over the tasks that count.

    Args:
        tables: evaluation nodes.
        title: what the footer names.
        targets: target sparsities; the nearest evaluated ones are taken.
        pairs: differences `first - second` shown besides those against dense; absent criteria are left out.
        resamples: bootstrap resamples.
        floor: tasks on which dense scores less are in no mean.
    """
    parts: list[pd.DataFrame] = []
    comparisons: list[Comparison] = []
    for _, of_setting in tables.rows.groupby(SETTING, sort=True):
        rows = scores.drop_hard_tasks(of_setting, floor)
        sampled = scores.resample(rows, resamples)
        nearest = {scores.nearest_target(rows, target) for target in targets if rows["target"].notna().any()}
        table = scores.summarise(rows, sampled).assign(**dict(rows[SETTING].iloc[0]), versus="")
        parts.append(table[table["target"].isna() | table["target"].isin(nearest)])
        for target in sorted(nearest):
            comparisons += _comparisons(sampled, target, pairs, dict(rows[SETTING].iloc[0]))
    table = pd.concat([*parts, judged(comparisons, "score")], ignore_index=True)
    figure = _figure(table)
    style.finish(figure, title, f"{bootstrap.method(resamples)}, paired.",
                 f"Differences: intervals {bootstrap.CORRECTED}; better or worse: the interval leaves out 0.",
                 *scores.notes(tables.rows, floor))  # fmt: skip
    return figure, table


def _comparisons(
    sampled: scores.Scores, target: float, pairs: Sequence[Sequence[str]], setting: dict[str, Any]
) -> Iterator[Comparison]:
    """Yield the differences from dense and those of the pairs at a target, as far as both were evaluated."""
    names = style.ordered([name for name, at in sampled.columns if at == target])
    for one, other in [*((name, "dense") for name in names), *pairs]:
        columns = [(name, target) if (name, target) in sampled.columns else (name, 0.0) for name in (one, other)]
        if set(columns) <= set(sampled.columns):
            counts = {"tasks": len(set(sampled.tasks)), "prompts": len(sampled.tasks)}
            row = {**setting, "criterion": one, "versus": other, "target": target, **counts}
            yield Comparison(row, sampled.difference(*columns))


def _figure(table: pd.DataFrame) -> Figure:
    """Draw a row of two panels for each setting and target."""
    differences = table[table["versus"] != ""]
    settings = list(table.dropna(subset="target").groupby([*SETTING, "target"], sort=True))
    most = max(len(part) - (part["versus"] != "").sum() for _, part in settings) + 2
    figure = style.new_figure(style.DOUBLE, 0.45 + (0.5 + 0.25 * max(2, most)) * len(settings))
    axes = figure.subplots(len(settings), 2, squeeze=False, sharex="col", width_ratios=[1, 1.05])
    for (left, right), ((benchmark, length, target), part) in zip(axes, settings, strict=True):
        untargeted = table[(table["benchmark"] == benchmark) & (table["length"] == length) & table["target"].isna()]
        compared = part["versus"] != ""
        _score_panel(left, pd.concat([untargeted, part[~compared]]))
        tasks = style.plural(int(part["tasks"].iloc[0]), "task")
        left.set_title(f"{benchmark}, {length:,} tokens, target {target:g}, mean of {tasks}")
        _difference_panel(right, part[compared])
    low, high = min(differences["low"].min(), -5), max(differences["high"].max(), 5)
    axes[0, 0].set_xlim(0, 100)
    axes[0, 1].set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    return figure


def _score_panel(ax: Axes, table: pd.DataFrame) -> None:
    names = list(table["criterion"])
    for place, row in enumerate(style.records(table)):
        look = style.look(row.criterion, names)
        marker, size = ("|", 8) if look.marker == "_" else (look.marker, 5)
        ax.plot([row.low, row.high], [place, place], color=look.colour, lw=1)
        ax.plot(row.score, place, color=look.colour, marker=marker, ms=size, mew=1.5, clip_on=False)
        _beside(ax, place, f"{row.score:.0f} at {row.sparsity:.2f}", style.INK)
    _rows(ax, [style.look(name, names).label.replace(" (", "\n(") for name in names])
    ax.set_xlabel("score (0-100) at achieved sparsity")


def _difference_panel(ax: Axes, table: pd.DataFrame) -> None:
    names, labels = [*table["criterion"], *table["versus"]], []
    ax.axvline(0, color=style.INK, lw=0.6)
    for place, row in enumerate(style.records(table)):
        colour, filled = VERDICTS[row.verdict]
        ax.plot([row.low, row.high], [place, place], color=colour, lw=1)
        ax.plot(row.score, place, color=colour, marker="o", ms=4, mfc=colour if filled else "white")
        _beside(ax, place, row.verdict, colour)
        labels.append(" - ".join(style.look(name, names).short for name in (row.criterion, row.versus)))
    _rows(ax, labels)
    ax.set(xlabel="paired difference in score (points)", title="Paired differences")


def _beside(ax: Axes, place: int, text: str, colour: str) -> None:
    ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=colour)


def _rows(ax: Axes, labels: list[str]) -> None:
    panels.name_rows(ax, labels, fontsize=6)
    ax.xaxis.set_tick_params(labelbottom=True)
