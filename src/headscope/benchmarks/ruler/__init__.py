"""RULER (arXiv 2404.06654; NVIDIA/RULER @ c3f5e3b): prompts byte for byte, generators our own.

The part of a task's name before the first underscore names the module here that defines it.
"""


def module_of(task: str) -> str:
    """Return the module that defines a task."""
    return f"{__name__}.{task.split('_')[0]}"
