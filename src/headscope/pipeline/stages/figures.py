"""Stage `figures`: draw one figure from tables of results, as PDF and PNG, with its numbers as CSV."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from headscope.errors import ConfigError
from headscope.figures.common import style
from headscope.figures.common.tables import Tables
from headscope.pipeline.store.parents import Parents


def run(spec: dict[str, Any], out: Path, parents: Parents) -> None:
    """Draw `headscope.figures.<spec["figure"]>` and write `<figure>.pdf`, `.png` and `.csv` into `out`.

    Raises:
        ConfigError: no such figure, or `params` holds one that the figure does not know.
    """
    name, params = spec["figure"], spec.get("params") or {}
    draw = _drawer(name)
    known = list(inspect.signature(draw).parameters)[2:]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ConfigError(f"figure {name} has no option {unknown[0]!r}; it knows: {', '.join(known)}")
    stages = ("evaluation", "oracle", "calibration", "margins")
    tables = Tables(*(parents.all(stage) for stage in stages))
    with style.applied():
        figure, table = draw(tables, spec["title"], **params)
        style.save(figure, table, out / name)


def _drawer(name: str) -> Any:
    module = f"headscope.figures.{name}"
    try:
        return import_module(module).draw
    except (ModuleNotFoundError, AttributeError) as error:
        # A missing library inside an existing figure is another matter and keeps its own message.
        if isinstance(error, ModuleNotFoundError) and error.name != module:
            raise
        raise ConfigError(f"unknown figure {name!r}: {module} has no function draw") from error
