"""Means over the (query, head) pairs of masses and margins, read one prompt at a time."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headscope.pipeline.store.layer_rows import Array, as_array, row_groups

Means = dict[str, float]


def masses_means(file: Path) -> Means:
    """Return the mean local share of each split, and the share of pairs whose window holds less than half the mass."""
    means = _Means()
    for rows in row_groups(file):
        if rows.num_rows:
            split, local = rows["split"][0].as_py(), _sigmoid(as_array(rows["local"]) - as_array(rows["bulk"]))
            means.add({f"local_share/{split}": local, f"long_share@0.5/{split}": local < 0.5})
    return means.result()


def margins_means(file: Path) -> Means:
    """Return each criterion's mean exact local share and mean lost output, by split."""
    means = _Means()
    for rows in row_groups(file):
        if rows.num_rows:
            label = f"{rows['criterion'][0].as_py()}/{rows['split'][0].as_py()}"
            shares, lost = _sigmoid(as_array(rows["exact"])), np.exp(as_array(rows["lost"]))
            means.add({f"local_share/{label}": shares, f"lost_output/{label}": lost})
    return means.result()


class _Means:
    """Running means by name."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, Array]) -> None:
        for name, array in values.items():
            self.sums[name] += float(array.sum(dtype=np.float64))
            self.counts[name] += array.size

    def result(self) -> Means:
        return {name: self.sums[name] / count for name, count in self.counts.items()}


def _sigmoid(log_odds: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow."""
    shares: Array = np.exp(-np.logaddexp(0, -log_odds.astype(np.float64)))
    return shares
