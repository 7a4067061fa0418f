"""RULER's score of a length: the unweighted mean of its 13 tasks, or nothing."""

from collections.abc import Mapping

from headscope.errors import ConfigError

NAME = "RULER, mean of its 13 tasks"
TASKS_OF_MEAN = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
)


def average(scores: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the mean of the official tasks; tasks with the packaged prose do not count.

    Args:
        scores: 0-100, by task.

    Raises:
        ConfigError: a task is missing, so that a mean would be another benchmark's.
    """
    if missing := [task for task in TASKS_OF_MEAN if task not in scores]:
        raise ConfigError(f"{NAME}: not given, for it lacks {', '.join(missing)}")
    return NAME, sum(scores[task] for task in TASKS_OF_MEAN) / len(TASKS_OF_MEAN)
