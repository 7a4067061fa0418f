"""Benchmarks and their tasks by name.

A kind of benchmark is a package here; its module `prompts` makes the rows. A task stands in `TASKS` of the module that
the part of its name before the first underscore names, or the package's own `module_of(task)`. There is no central
list, so a new task changes no other task's code digest.
"""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from headscope.benchmarks.row import Request, Row
from headscope.errors import ConfigError, LengthError

KINDS = ("ruler", "longbench")


def module_of(kind: str, task: str) -> str:
    """Return the module that defines a task."""
    package = import_module(f"{__package__}.{kind}")
    name = package.module_of(task) if hasattr(package, "module_of") else task.split("_")[0]
    return f"{package.__name__}.{name}"


def names(kind: str) -> list[str]:
    """Return the names of all tasks of a kind of benchmark."""
    package = import_module(f"{__package__}.{kind}")
    modules = (import_module(f"{package.__name__}.{module.name}") for module in iter_modules(package.__path__))
    return sorted(name for module in modules for name in getattr(module, "TASKS", ()))


def find(kind: str, task: str) -> Any:
    """Return the task called `task`.

    Raises:
        ConfigError: there is no such task.
    """
    tasks = names(kind)
    if task not in tasks:
        near = get_close_matches(task, tasks, n=1, cutoff=0) or tasks
        raise ConfigError(f"unknown {kind} task {task!r}; nearest: {near[0]!r}; all: {', '.join(tasks)}")
    return import_module(module_of(kind, task)).TASKS[task]


def needs(kind: str, task: str, length: int) -> list[str]:
    """Return the names of the benchmark files that a task needs at a length."""
    files: list[str] = find(kind, task).needs(length)
    return files


def rows(kind: str, request: Request) -> list[Row]:
    """Return the prompts of one task, evaluation first.

    Raises:
        LengthError: the task has no prompts of this length with this tokenizer; the message names both.
        ConfigError, AssetError: as the benchmark's own `rows`.
    """
    try:
        prompts: list[Row] = import_module(f"{__package__}.{kind}.prompts").rows(request)
    except LengthError as error:
        raise LengthError(f"task {request.task} at length {request.length}: {error}", error.needs) from error
    return prompts
