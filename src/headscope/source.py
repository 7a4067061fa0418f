"""Where the source of a module lies, without importing it: a plan takes milliseconds and needs no torch."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = "headscope"
SOURCE = Path(__file__).resolve().parent


def source_file(module: str) -> Path | None:
    """Return the Python file of a module or package, ours or an installed one; None if it has none."""
    path = source_path(module)
    candidates = () if path is None else (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def source_path(module: str) -> Path | None:
    """Return where a module's file would lie, without its ending; a package's is its folder."""
    top, *inside = module.split(".")
    folder = SOURCE if top == ROOT else _installed(top)
    return folder and folder.joinpath(*inside)


@cache
def _installed(top: str) -> Path | None:
    """Return the place of an installed top-level module; finding it imports nothing."""
    try:
        spec = find_spec(top)
    except ValueError:  # of __main__, for one
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin).with_suffix("") if spec.origin and spec.has_location else None
