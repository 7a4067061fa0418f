"""(f) Where the criteria stand at the targets that matter: scores, achieved sparsity and paired differences."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.figures.common import bootstrap, scores, style
from headscope.figures.common.tables import Tables

MEAN = "mean"
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
    seed: int = 0,
    floor: float = scores.FLOOR,
) -> tuple[Figure, pd.DataFrame]:
    """Draw scores (left) and paired differences (right) of each setting and target; the CSV also has the tasks apart.

    Args:
        tables: evaluation nodes.
        title: what the footer names.
        targets: target sparsities; the nearest evaluated ones are taken.
        pairs: differences `first - second` shown besides those against dense; absent criteria are left out.
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        floor: tasks on which dense scores less are reported apart.
    """
    table = pd.concat([_of_setting(rows, targets, pairs, resamples, seed, floor)
                       for _, rows in tables.rows.groupby(scores.SETTING, sort=True)], ignore_index=True)  # fmt: skip
    shown = table[table["task"] == MEAN]
    panels = list(shown[[*scores.SETTING, "target"]].dropna().drop_duplicates().itertuples(index=False))
    lines = max(2, shown[shown["versus"] == ""].groupby([*scores.SETTING, "target"]).size().max() + 2)
    figure = style.new_figure(style.DOUBLE, 0.45 + (0.5 + 0.165 * 1.5 * lines) * len(panels))
    axes = figure.subplots(len(panels), 2, squeeze=False, sharex="col", width_ratios=[1, 1.05])
    for row, panel in zip(axes, panels, strict=True):
        _score_panel(row[0], _at(shown, panel, versus=False), panel)
        _difference_panel(row[1], _at(shown, panel, versus=True))
    _reach(axes[0, 1], shown[shown["versus"] != ""])
    style.finish(figure, title, bootstrap.METHOD.format(resamples=resamples) + ", paired.",
                 "Better or worse: the interval leaves out 0; not corrected for the number of comparisons.",
                 *_apart_note(table, floor), *scores.notes(tables.rows))  # fmt: skip
    return figure, table


def nearest(available: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """The evaluated target nearest to each wanted one, without repeats."""
    return sorted({min(available, key=lambda target: abs(target - one)) for one in wanted})


def _of_setting(
    rows: pd.DataFrame,
    targets: Sequence[float],
    pairs: Sequence[Sequence[str]],
    resamples: int,
    seed: int,
    floor: float,
) -> pd.DataFrame:
    """Scores and differences of one benchmark and length: the mean over tasks that count, then each task apart.

    If dense is below the floor everywhere (a random model), the mean is over all tasks and marked apart too.
    """
    apart = scores.too_hard(rows, floor)
    counted = rows[~rows["task"].isin(apart)]
    chosen = nearest(sorted(rows["target"].dropna().unique()), targets)
    groups = [(MEAN, counted if len(counted) else rows), *((task, rows[rows["task"] == task]) for task in apart)]
    parts = [_of_group(group, chosen, pairs, resamples, seed).assign(task=name, apart=name in apart or not len(counted))
             for name, group in groups]  # fmt: skip
    return pd.concat(parts).assign(**scores.setting_of(rows))


def _of_group(
    rows: pd.DataFrame, targets: Sequence[float], pairs: Sequence[Sequence[str]], resamples: int, seed: int
) -> pd.DataFrame:
    found = scores.resample(rows, resamples, seed)
    table = scores.summarise(rows, found)
    table = table[table["target"].isna() | table["target"].isin(targets)].assign(versus="")
    against = []
    for target in targets:
        names = [name for name, at in found.columns if at == target]
        wanted = [(name, "dense") for name in style.ordered(names)] + [tuple(pair) for pair in pairs]
        against += [_difference(found, one, other, target) for one, other in wanted]
    return pd.concat([table, pd.DataFrame([row for row in against if row])], ignore_index=True)


def _difference(found: scores.Scores, one: str, other: str, target: float) -> dict[str, Any] | None:
    """Row of `one - other` at a target; None if either was not evaluated."""
    columns = [(name, target) if (name, target) in found.columns else (name, 0.0) for name in (one, other)]
    if not set(columns) <= set(found.columns):
        return None
    mean, low, high = found.difference(*columns)
    row = {"criterion": one, "versus": other, "target": target, "score": mean, "low": low, "high": high}
    return {**row, "verdict": scores.verdict(low, high), "tasks": len(set(found.tasks)), "prompts": len(found.tasks)}


def _at(table: pd.DataFrame, panel: Any, versus: bool) -> pd.DataFrame:
    """Rows of a panel; scores include the criteria without a target."""
    here = (table["benchmark"] == panel.benchmark) & (table["length"] == panel.length)
    here &= (table["versus"] != "") == versus
    chosen: pd.DataFrame = table.loc[here & ((table["target"] == panel.target) | table["target"].isna())]
    return chosen


def _score_panel(ax: Axes, table: pd.DataFrame, panel: Any) -> None:
    names = list(table["criterion"])
    for place, row in enumerate(style.records(table)):
        look = style.look(row.criterion, names)
        marker = "|" if look.marker == "_" else look.marker
        ax.plot([row.low, row.high], [place, place], color=look.colour, lw=1)
        ax.plot(
            row.score, place, color=look.colour, marker=marker, ms=8 if marker == "|" else 5, mew=1.5, clip_on=False
        )
        _beside(ax, place, f"{row.score:.0f} at {row.sparsity:.2f}", style.INK)
    _rows(
        ax, [style.look(name, names).label.replace(" (", "\n(") for name in names], "score (0-100) at achieved sparsity"
    )
    ax.set_xlim(0, 100)
    tasks = int(table["tasks"].iloc[0])
    ax.set_title(
        f"{panel.benchmark}, {panel.length:,} tokens, target {panel.target:g}, mean of {style.plural(tasks, 'task')}"
    )


def _difference_panel(ax: Axes, table: pd.DataFrame) -> None:
    names = [*table["criterion"], *table["versus"]]
    short = {name: style.look(name, names).label.split(" (")[0] for name in names}
    ax.axvline(0, color=style.INK, lw=0.6)
    for place, row in enumerate(style.records(table)):
        colour, filled = VERDICTS[row.verdict]
        ax.plot([row.low, row.high], [place, place], color=colour, lw=1)
        ax.plot(row.score, place, color=colour, marker="o", ms=4, mfc=colour if filled else "white")
        _beside(ax, place, row.verdict, colour)
    labels = [f"{short[row.criterion]} - {short[row.versus]}" for row in style.records(table)]
    _rows(ax, labels, "paired difference in score (points)")
    ax.set_title("Paired differences")


def _reach(ax: Axes, differences: pd.DataFrame) -> None:
    """Let the axis that all panels share reach every interval, and a few points at least."""
    low, high = min(differences["low"].min(), -5), max(differences["high"].max(), 5)
    margin = 0.05 * (high - low)
    ax.set_xlim(low - margin, high + margin)


def _beside(ax: Axes, place: int, text: str, colour: str) -> None:
    ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=6, color=colour)


def _rows(ax: Axes, labels: list[str], xlabel: str) -> None:
    ax.set_xlabel(xlabel)
    ax.xaxis.set_tick_params(labelbottom=True)
    ax.set_yticks(range(len(labels)), labels, fontsize=6)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def _apart_note(table: pd.DataFrame, floor: float) -> list[str]:
    found = []
    for benchmark, group in table[table["apart"]].groupby("benchmark"):
        tasks = ", ".join(sorted(set(group["task"]) - {MEAN}))
        where = (
            "everywhere, so this is no comparison" if MEAN in set(group["task"]) else "not in the mean (see the CSV)"
        )
        found.append(f"{benchmark}: dense below {floor:g}, {where}: {tasks}.")
    return found
