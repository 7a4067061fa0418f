"""The look of all figures: column widths, colour-blind safe criteria, footer, deterministic files."""

import io
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.3, 6.8
"""Widths in inches: one column, and both columns of a page."""
INK, GREY, PALE = "#222222", "#767676", "#EFEFEF"
FOOTER_POINTS = 5.5

RC = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 220,
}


class Look(NamedTuple):
    """How a criterion is drawn, everywhere."""

    label: str
    colour: str
    marker: str
    line: Any

    @property
    def short(self) -> str:
        """The label without its bracket."""
        return self.label.split(" (")[0]


# Okabe and Ito's colours; markers and dashes differ too, so that print in grey still tells them apart.
CRITERIA = {
    "dense": Look("dense", "#000000", "_", "-"),
    "local": Look("local", GREY, "_", ":"),
    "oracle": Look("oracle", "#0072B2", "o", "-"),
    "lost_output": Look("lost output", "#56B4E9", "P", "-"),
    "qada": Look("QAdA", "#009E73", "^", "-"),
    "qada_random_words": Look("QAdA, random words", "#E69F00", "v", "-."),
    "static": Look("static (other tasks)", "#D55E00", "s", (0, (1, 1))),
    "static_oracle": Look("static oracle (fitted on evaluation prompts)", "#CC79A7", "D", "--"),
}
_SPARE_LINES = [(0, (3, 1, 1, 1)), "-", (0, (5, 2))]
_SPARE = [("#5B5B8C", "d"), ("#8C6D1F", "X"), ("#0072B2", "*"), ("#009E73", "h"), ("#CC79A7", "<"), ("#E69F00", ">")]


def shades(count: int) -> list[Any]:
    """Return colours of an ordered quantity, pale to dark."""
    return [matplotlib.colormaps["Blues"](place) for place in np.linspace(0.3, 1, count)]


def applied() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and saved with this look."""
    context: AbstractContextManager[None] = matplotlib.rc_context(RC)
    return context


def ordered(names: Sequence[str]) -> list[str]:
    """Return criteria without repeats, in the fixed order of the legend; unknown ones last, by name."""
    return [name for name in CRITERIA if name in names] + sorted(set(names) - set(CRITERIA))


def look(name: str, names: Sequence[str]) -> Look:
    """Return the look of a criterion; unknown ones get spare looks, in the order of their names in `names`."""
    if name in CRITERIA:
        return CRITERIA[name]
    round_, place = divmod(sorted(set(names) - set(CRITERIA)).index(name), len(_SPARE))
    colour, marker = _SPARE[place]
    label = name.replace("_", " ").replace("qada", "QAdA")
    return Look(label, colour, marker, _SPARE_LINES[round_ % len(_SPARE_LINES)])


def new_figure(width: float, height: float) -> Figure:
    """Make a figure, in inches, whose axes, titles and outside legends make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, title: dict[str, Any], *notes: str, warnings: Sequence[str] = ()) -> None:
    """Write the footer (model, tasks, samples, seed, then the notes) in room taken from the bottom of the figure.

    Warnings stand above it, a line each, in ink.
    """
    each = "a task and seed" if len(title["seed"]) > 1 else "a task"
    samples = "; ".join(
        f"{name}: {plural(_drawn(title, name), 'task')}, {it['most']}{plural(it['samples'], 'prompt')} {each}"
        for name, it in title["benchmarks"].items()
    )
    scope = f"; criteria decide in the context too, by {title['chunk']} tokens" if "chunk" in title else ""
    head = f"{title['model']}; {samples}; data {named_seeds(title)}{scope}."
    width, height = figure.get_size_inches()
    above = [line for warning in warnings for line in textwrap.wrap(warning, int(width * 23))]
    lines = textwrap.wrap(" ".join([head, *_left_out(title), *notes]), int(width * 23))
    line = FOOTER_POINTS * 1.35 / 72 / height
    room = (len(above) + len(lines)) * line + 4 / 72 / height
    figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room))
    x, y = 4 / 72 / width, 2 / 72 / height
    options: dict[str, Any] = {"fontsize": FOOTER_POINTS, "va": "bottom", "linespacing": 1.35}
    if above:
        figure.text(x, y + len(lines) * line, "\n".join(above), color=INK, **options)
    figure.text(x, y, "\n".join(lines), color=GREY, **options)


def named_seeds(title: dict[str, Any]) -> str:
    """Return the seeds of the data in words."""
    return f"seed{'s' if len(title['seed']) > 1 else ''} {', '.join(map(str, title['seed']))}"


def _drawn(title: dict[str, Any], benchmark: str) -> int:
    """Count the tasks of a benchmark that could be drawn, at one length and seed at least."""
    options = title["benchmarks"][benchmark]
    absent = Counter(each["task"] for each in title.get("left_out", ()) if each["benchmark"] == benchmark)
    return sum(absent[task] < len(options["lengths"]) * len(title["seed"]) for task in options["tasks"])


def _left_out(title: dict[str, Any]) -> list[str]:
    """Name the tasks that could not be drawn, one sentence a benchmark and length: no mean there has them."""
    tasks: dict[str, list[str]] = {}
    for each in title.get("left_out", ()):
        seed = [f"seed {each['seed']}"] if len(title["seed"]) > 1 else []
        words = ", ".join(seed + ([f"needs {each['needs']:,}"] if each["needs"] else []))
        place = f"{each['benchmark']} at {each['length']:,} tokens"
        tasks.setdefault(place, []).append(f"{each['task']} ({words})" if words else each["task"])
    where = "in no mean or threshold there"
    return [f"Left out of {place}, {where}: {', '.join(named)}." for place, named in tasks.items()]


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count:,} {noun}" + ("s" if count != 1 else "")


def share_axis(axis: Any) -> None:
    """Set the ticks of a share from 0 to 1."""
    axis.set_major_locator(matplotlib.ticker.FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
    axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.1f"))


def records(table: pd.DataFrame) -> list[Any]:
    """Return rows as named tuples; pandas' own type of their values is too wide to draw with."""
    return list(table.itertuples())


def save(figure: Figure, table: pd.DataFrame, stem: Path) -> None:
    """Write `<stem>.pdf`, `.png` and `.csv`, the same bytes for the same content (no dates, no program versions)."""
    metadata = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}
    _lay_out(figure)
    for kind, fields in metadata.items():
        # Through memory: on a full disk matplotlib's own writer hides the reason behind errors of its clean-up.
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=fields)
        stem.with_suffix(f".{kind}").write_bytes(picture.getvalue())
    table.to_csv(stem.with_suffix(".csv"), index=False, float_format="%.6g", lineterminator="\n")


def _lay_out(figure: Figure) -> None:
    """Place all axes once; the solver's last digits depend on addresses in memory, so they are rounded."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(part), 6) for part in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height), which="original")
