"""Stage `figures`: draw one figure from tables of results, as PDF and PNG, with its numbers as CSV."""

from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.figures.common import style
from headscope.figures.common.tables import Tables
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Draw `headscope.figures.<spec["figure"]>` and write `<figure>.pdf`, `.png` and `.csv` into `out`."""
    name = spec["figure"]
    draw = import_module(f"headscope.figures.{name}").draw
    stages = ("evaluation", "oracle", "calibration", "margins")
    tables = Tables(*(parents.all(stage) for stage in stages))
    with style.applied():
        figure, table = draw(tables, spec["title"], **spec["params"])
        style.save(figure, table, out / name)
