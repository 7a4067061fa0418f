"""LongBench's published average: the mean over groups of their means; nothing if a subset is missing."""

from collections.abc import Mapping
from statistics import mean

from headscope.benchmarks.longbench.subsets import SUBSETS
from headscope.errors import ConfigError

NAME = "LongBench, mean of its groups' means"
TASKS_OF_MEAN = tuple(subset.name for subset in SUBSETS)


def average(scores: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the average: of all 21 subsets, or of the 16 that are not Chinese.

    Args:
        scores: 0-100, by task; LongBench-E, v2 and local tasks do not count.

    Raises:
        ConfigError: an English subset is missing, so that an average would be another benchmark's.
    """
    language, subsets = "all", list(SUBSETS)
    if any(subset.name not in scores for subset in SUBSETS):
        language, subsets = "English", [subset for subset in SUBSETS if subset.language == "en"]
    if missing := [subset.name for subset in subsets if subset.name not in scores]:
        raise ConfigError(f"{NAME}: not given, for it lacks {', '.join(missing)}")
    groups: dict[str, list[float]] = {}
    for subset in subsets:
        groups.setdefault(subset.group, []).append(scores[subset.name])
    name = f"LongBench, {language} {len(subsets)} subsets, mean of {len(groups)} groups' means"
    return name, mean(mean(group) for group in groups.values())
