"""Stage `figures`: draw one figure from tables of results, as PDF and PNG, with its numbers as CSV."""

from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.figures.common import style
from headscope.figures.common.tables import Tables
from headscope.pipeline.store.parents import Parent, Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Draw `headscope.figures.<spec["figure"]>` and write `<figure>.pdf`, `.png` and `.csv` into `out`.

    Tasks that could not be drawn have no rows; the footer names them.

    Raises:
        LengthError: no task could be drawn.
    """
    name = spec["figure"]
    draw = import_module(f"headscope.figures.{name}").draw
    stages = ("evaluation", "oracle", "calibration", "margins")
    tables = Tables(*(parents.drawn(stage, f"figure {name}") for stage in stages))
    left_out = [_named(parent) for parent in parents.all("evaluation") if parent.left_out]
    with style.applied():
        figure, table = draw(tables, {**spec["title"], "left_out": left_out}, **spec["params"])
        style.save(figure, table, out / name)


def _named(evaluation: Parent) -> dict[str, Any]:
    """Return what a footer says of a task that was left out."""
    assert evaluation.left_out is not None
    place = {name: evaluation.spec[name] for name in ("benchmark", "length", "task", "seed")}
    return {**place, "needs": evaluation.left_out.needs}
