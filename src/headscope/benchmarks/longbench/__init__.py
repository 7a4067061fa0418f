"""LongBench (arXiv 2308.14508; THUDM/LongBench @ 2e00731), LongBench-E, LongBench-v2, and two tasks of its form.

Official subsets read the official data and prompt file, which the assets stage brings. Tasks named `*_local` are made
of the installed Python's standard library, so that the same code runs where there is no internet.
"""


def module_of(task: str) -> str:
    """Return the name of the module here that defines a task."""
    if task.endswith("_local"):
        return "local"
    return "v2" if task.startswith("v2") else "subsets"
