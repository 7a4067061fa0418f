"""Tables and one picture of several models: the share of the dense score that is left against the KV bytes read.

    python bench/several_models.py results/figures/models/* --out families [--lengths 4096 8192] [--unit group]

Folders are points of a sweep over models, as figures are published. Writes models.csv (means of tasks), tasks.csv
(every task; low and high are of the share) and models.png and .pdf.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from headscope.figures import score_bytes, score_tasks
from headscope.figures.common import bootstrap, panels, scores, style

CRITERIA = ["dense", "local", "oracle", "static", "qada", "lost_output", "lost_output_gaussian"]
POINT = ["model", "unit"]
MODELS = [*POINT, "length", "mean", "criterion", "target", "kv_bytes", "sparsity", "sparsity_group", "score", "share"]
MODELS += ["low", "high", "tasks", "prompts"]
TASKS = [*POINT, "length", "task", "criterion", "target", "kv_bytes", "sparsity", "score", "share", "low", "high"]
TASKS += ["prompts"]
UNITS = {"group": "by KV group, oracle and static by head", "head": "by head"}


class Point(NamedTuple):
    """One model whose criteria decide by one unit: what footers name of it, and its tables."""

    title: dict[str, Any]
    means: pd.DataFrame
    tasks: pd.DataFrame


def main() -> None:
    """Write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="published figures of one point each")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192], help="rows of the picture")
    parser.add_argument("--unit", choices=UNITS, default="group", help="what decides in the picture, where it can")
    options = parser.parse_args()
    points = [read(folder) for folder in options.folders]
    means, tasks = (pd.concat([getattr(point, name) for point in points]) for name in ("means", "tasks"))
    options.out.mkdir(parents=True, exist_ok=True)
    tasks[TASKS].to_csv(options.out / "tasks.csv", index=False, float_format="%.5g", lineterminator="\n")
    shown = means[means["length"].isin(options.lengths) & (means["mean"] == score_bytes.ALL) & ~means["hard"]]
    shown = shown[(shown["unit"] == options.unit) & shown["criterion"].isin(CRITERIA)]
    if shown.empty:
        sys.exit(f"no point decides by {options.unit} at {options.lengths} tokens: choose other --lengths or --unit")
    with style.applied():
        style.save(draw(shown, _title(points, shown), options.unit), means[MODELS], options.out / "models")


def read(folder: Path) -> Point:
    """Read the tables of a point; the slices that made its first figure and evaluation name model and unit."""
    figure = _figure_of(folder)
    title = yaml.safe_load((figure / "spec.yaml").read_text())["title"]
    parents = json.loads((figure / "provenance.json").read_text())["parents"]
    evaluation = figure.parents[1] / next(name for name in parents if name.startswith("evaluation/"))
    criteria = yaml.safe_load((evaluation / "spec.yaml").read_text())["criteria"]
    unit = "group" if any(spec["unit"] == "group" for spec in criteria.values()) else "head"
    means, tasks = (pd.read_csv(folder / f"{name}.csv") for name in ("score_bytes", "score_tasks"))
    means, tasks = (table.assign(model=title["model"], unit=unit) for table in (means, tasks))
    each_task = (tasks["seed"] == score_tasks.ALL) & (tasks["task"] != scores.MEAN)
    return Point(title, means[means["versus"].isna()], tasks[each_task])


def _figure_of(folder: Path) -> Path:
    """Return the folder results/figures/<address> that a published score_bytes was copied from."""
    names = [key.read_text().strip() for key in folder.glob("score_bytes--*.key")]
    figures = [parent / name for parent in folder.absolute().parents for name in names if (parent / name).is_dir()]
    if len(figures) != 1:
        sys.exit(f"{folder}: no single score_bytes--*.key names a figure in a folder above it; name published figures")
    return figures[0]


def _title(points: Sequence[Point], shown: pd.DataFrame) -> dict[str, Any]:
    """Return what the footer names; all models must have had the same prompts."""
    titles = [point.title for point in points]
    drawn = [(title["seed"], {name: (it["tasks"], it["samples"]) for name, it in title["benchmarks"].items()})
             for title in titles]  # fmt: skip
    if any(other != drawn[0] for other in drawn):
        sys.exit("the points differ in seeds, tasks or numbers of prompts: draw those that are equal")
    return {**titles[0], "model": ", ".join(shown["model"].unique())}


def draw(shown: pd.DataFrame, title: dict[str, Any], unit: str) -> Figure:
    """Draw a column a model and a row a length."""
    models, lengths = list(shown["model"].unique()), sorted(shown["length"].unique())
    figure = style.new_figure(0.5 + 1.75 * len(models), 1.1 + 1.65 * len(lengths))
    axes, highest = figure.subplots(len(lengths), len(models), squeeze=False), panels.highest_share(shown)
    for place, ax in np.ndenumerate(axes):
        length, model = lengths[place[0]], models[place[1]]
        of_length, of_model = shown[shown["length"] == length], shown[shown["model"] == model]
        part = of_model[of_model["length"] == length]
        if part.empty:
            ax.remove()
            continue
        panels.share_curves(ax, part, shown, highest)
        counts = [style.plural(int(part[name].max()), name[:-1]) for name in ("tasks", "prompts")]
        name = [model] if length == of_model["length"].min() else []
        ax.set_title("\n".join([*name, f"{length:,} tokens", ", ".join(counts)]))
        leftmost = model == of_length["model"].iloc[0]
        ax.tick_params(labelleft=leftmost)
        ax.xaxis.set_major_locator(MultipleLocator(0.25))
        ax.set_ylabel(panels.SHARE if leftmost else "")
        ax.set_xlabel("KV bytes read" if length == of_model["length"].max() else "")
    panels.legend(figure, len(CRITERIA))
    style.finish(figure, title, f"Bars: {bootstrap.method(bootstrap.RESAMPLES)}, paired with dense.",
                 f"Mean of the tasks on which dense scores {scores.FLOOR:g} at least; criteria decide {UNITS[unit]}.",
                 "KV bytes: share of all keys and values; the further right a curve stays up, the better.",
                 *panels.cut_note(shown, highest))  # fmt: skip
    return figure


if __name__ == "__main__":
    main()
