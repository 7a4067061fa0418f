"""LongBench's published average: the mean over groups of their means; nothing if a subset is missing."""

from collections.abc import Mapping
from statistics import mean

from headscope.benchmarks.longbench.subsets import SUBSETS
from headscope.errors import ConfigError


def average(scores: Mapping[str, float]) -> tuple[str, float]:
    """Return the name and the value of the average: of all 21 subsets, or of the 16 that are not Chinese.

    Args:
        scores: 0-100, by task; LongBench-E, v2 and local tasks do not count.

    Raises:
        ConfigError: an English subset is missing, so that an average would be another benchmark's.
    """
    there = [subset for subset in SUBSETS if subset.name in scores]
    missing = [subset.name for subset in SUBSETS if subset.name not in scores]
    if english := [subset.name for subset in SUBSETS if subset.language == "en" and subset.name in missing]:
        raise ConfigError(f"LongBench, mean of its groups' means: not given, for it lacks {', '.join(english)}")
    chosen = [subset for subset in there if not missing or subset.language == "en"]
    groups: dict[str, list[float]] = {}
    for subset in chosen:
        groups.setdefault(subset.group, []).append(scores[subset.name])
    name = (
        f"LongBench, {'all' if not missing else 'English'} {len(chosen)} subsets, mean of {len(groups)} groups' means"
    )
    return name, mean(mean(group) for group in groups.values())
