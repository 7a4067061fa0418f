"""RULER (arXiv 2404.06654; NVIDIA/RULER @ c3f5e3b): prompts byte for byte, generators our own.

A task is found by name: the part before the first underscore names the module here that defines it in `TASKS`.
There is no central list, so a new task changes no other task's code digest.
"""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from headscope.benchmarks.task import Task
from headscope.errors import ConfigError


def module_of(name: str) -> str:
    """Return the module that defines task `name`."""
    return f"{__name__}.{name.split('_')[0]}"


def task(name: str) -> Task[Any]:
    """Return the task called `name`.

    Raises:
        ConfigError: there is no such task.
    """
    if name not in names():
        near = get_close_matches(name, names(), n=1, cutoff=0) or names()
        raise ConfigError(f"unknown RULER task {name!r}; nearest: {near[0]!r}; all: {', '.join(names())}")
    found: Task[Any] = import_module(module_of(name)).TASKS[name]
    return found


def names() -> list[str]:
    """Return the names of all tasks."""
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    return sorted(name for module in modules for name in getattr(module, "TASKS", ()))
