"""Deletion of results: never while anything works on their folder, and whole."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from headscope.errors import ConfigError
from headscope.pipeline.store.files import sibling
from headscope.pipeline.store.runs import at_work, working


def refuse_while_working(results: Path) -> None:
    """Refuse to delete under the hands of a run.

    Raises:
        ConfigError: a run or a job works on the results, or did on another machine that cannot be asked.
    """
    if works := working(results):
        raise ConfigError(f"nothing is deleted, because {results} is in use: {works[0]}; wait for its end")


def delete(results: Path, paths: Sequence[Path], command: str) -> None:
    """Delete folders and files below a results folder; `command` says to others who does.

    Each is renamed first: an interruption leaves no half of a result under its name.

    Raises:
        ConfigError: a run or a job works on the results.
    """
    refuse_while_working(results)
    with at_work(results, command, [path.relative_to(results).as_posix() for path in paths]):
        for path in paths:
            doomed = sibling(path)
            path.rename(doomed)
            if doomed.is_dir():
                shutil.rmtree(doomed)
            else:
                doomed.unlink()
