"""The cells of a configuration, and the cells whose calibration prompts fit the criteria of each."""

from typing import NamedTuple

from headscope.pipeline.config.schema import Config, Criterion


class Cell(NamedTuple):
    """One task of one benchmark at one length: most jobs work on one cell."""

    benchmark: str
    length: int
    task: str


def cells_of(config: Config) -> list[Cell]:
    """List all cells of a configuration."""
    return [
        Cell(name, length, task)
        for name, benchmark in sorted(config.benchmark.items())
        for length in benchmark.lengths
        for task in benchmark.tasks
    ]


def calibration_cells(config: Config, cell: Cell) -> list[Cell]:
    """List the cells whose calibration prompts fit the criteria of an evaluated cell.

    They have the tasks and the length that `calibration` names; by default all tasks, and the length that is nearest as
    a ratio.
    """
    source = config.benchmark[cell.benchmark].calibrated_on or cell.benchmark
    length = config.calibration.length or min(
        config.benchmark[source].lengths, key=lambda length: max(length / cell.length, cell.length / length)
    )
    tasks = config.calibration.tasks or config.benchmark[source].tasks
    return [other for other in cells_of(config) if other[:2] == (source, length) and other.task in tasks]


def fitting_cells(config: Config, criterion: Criterion, cell: Cell) -> tuple[list[Cell], str | None]:
    """List the cells that fit one criterion for an evaluated cell; name the task if the fit is of that task alone."""
    cells = [cell] if criterion.calibrated_on == "evaluation" else calibration_cells(config, cell)
    includes_task = any(other.task == cell.task for other in cells)  # maybe at another length
    task = cell.task if includes_task and criterion.calibrated_on != "calibration" else None
    if criterion.calibrated_on == "other_tasks":
        cells = [other for other in cells if other.task != cell.task]
    return cells, task
