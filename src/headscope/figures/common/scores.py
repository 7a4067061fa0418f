"""Scores of criteria and targets with intervals: what the score figures and the summary share.

Shapes: P prompts, B resamples, C columns (criterion, target). Rows without a target (dense, local) carry target 0 here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, style

SETTING = ["benchmark", "length"]
FLOOR = 20.0
"""A task that the dense model scores below cannot tell criteria apart: it is shown alone and is in no mean."""


def too_hard(rows: pd.DataFrame, floor: float = FLOOR) -> list[str]:
    """Tasks of these rows (of one setting) on which the dense model's mean score lies below `floor`."""
    means = rows[rows["criterion"] == "dense"].groupby("task")["score"].mean()
    return [str(task) for task in means.index[means < floor]]


def counted(rows: pd.DataFrame, floor: float = FLOOR) -> pd.DataFrame:
    """Rows of the tasks that count (of one length); all rows if dense scores below `floor` on every task.

    Raises:
        ConfigError: dense was not evaluated, so nothing can be a share of it.
    """
    if "dense" not in set(rows["criterion"]):
        raise ConfigError("this figure measures against the criterion dense and has none: add criterion dense")
    kept = rows[~rows["task"].isin(too_hard(rows, floor))]
    return kept if len(kept) else rows


def floor_notes(rows: pd.DataFrame, floor: float) -> list[str]:
    """Which tasks are in no mean, by length."""
    found = []
    for length, of_length in rows.groupby("length"):
        apart = too_hard(of_length, floor)
        where = (
            "everywhere, so this is no comparison" if len(apart) == of_length["task"].nunique() else "not in the mean"
        )
        found += [f"{length:,} tokens: dense below {floor:g}, {where}: {', '.join(apart)}."] if apart else []
    return found


def setting_of(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the benchmark and length that all of these rows share."""
    return {name: rows[name].iloc[0] for name in SETTING}


def notes(rows: pd.DataFrame) -> list[str]:
    """What happened to prompts and answers that a score does not tell: lost middles, metrics that gave up."""
    cut = rows.drop_duplicates("prompt").groupby("benchmark")["truncated"].mean()
    found = [f"{name}: {share:.0%} of the prompts lost their middle." for name, share in cut[cut > 0].items()]
    failed = int(rows["metric_failed"].sum())
    return [*found, f"The metric failed on {failed:,} answers, which score 0."] if failed else found


@dataclass(frozen=True)
class Scores:
    """Scores of the same prompts under all criteria, and their resampled means.

    Attributes:
        columns: (criterion, target) of each column, target 0 for none.
        tasks: task of each prompt, [P].
        values: scores, [P, C].
        sparsity: achieved by each column on each prompt, [P, C].
        weights: of resampled means, [B, P].
    """

    columns: list[tuple[str, float]]
    tasks: list[str]
    values: NDArray[np.float64]
    sparsity: NDArray[np.float64]
    weights: NDArray[np.float64]

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Mean over tasks of the prompts' mean of each column, and the ends of its interval."""
        return self.with_interval(self.values)

    def difference(self, one: tuple[str, float], other: tuple[str, float]) -> tuple[float, float, float]:
        """Mean of the paired difference `one - other` and the ends of its interval."""
        i, j = self.columns.index(one), self.columns.index(other)
        mean, low, high = self.with_interval(self.values[:, [i]] - self.values[:, [j]])
        return float(mean[0]), float(low[0]), float(high[0])

    def with_interval(
        self, values: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Mean over tasks of the prompts' mean of each column of [P, C], and the ends of its interval, [C] each."""
        mean = bootstrap.equal_weights(self.tasks) @ values
        low, high = bootstrap.interval(self.weights @ values)
        # A difference that cancels out must be 0, not a rounding error with a sign.
        return mean.round(9), low.round(9), high.round(9)


def resample(rows: pd.DataFrame, resamples: int, seed: int) -> Scores:
    """Bootstrap the rows of one setting and of its tasks; a task's prompts of all seeds are one stratum."""
    filled = rows.fillna({"target": 0.0})
    wide = filled.pivot(index=["task", "seed", "index"], columns=["criterion", "target"], values=["score", "sparsity"])
    wide = wide.sort_index()
    tasks = [str(task) for task in wide.index.get_level_values("task")]
    values, sparsity = (wide[name].to_numpy(dtype=np.float64) for name in ("score", "sparsity"))
    names, targets = (wide["score"].columns.get_level_values(level) for level in ("criterion", "target"))
    columns = [(str(criterion), float(target)) for criterion, target in zip(names, targets, strict=True)]
    weights = bootstrap.resampled_weights(tasks, resamples, seed)
    return Scores(columns, tasks, values, sparsity, weights)


def summarise(rows: pd.DataFrame, scores: Scores) -> pd.DataFrame:
    """Score with interval and achieved sparsity of each column, in legend order.

    Also the share of prompts that lost their middle, and on how many answers the metric gave up.
    """
    mean, low, high = scores.means()
    keys = pd.MultiIndex.from_tuples(scores.columns, names=["criterion", "target"])
    table = pd.DataFrame({"score": mean, "low": low, "high": high}, index=keys)
    filled = rows.fillna({"target": 0.0})
    by_task = filled.groupby(["criterion", "target", "task"])[["sparsity", "sparsity_group", "truncated"]].mean()
    table = table.join(by_task.groupby(["criterion", "target"]).mean())
    table = table.join(filled.groupby(["criterion", "target"])["metric_failed"].sum()).reset_index()
    table = in_legend_order(table)
    table["target"] = table["target"].replace(0.0, np.nan)
    columns: list[Any] = ["criterion", "target", "sparsity", "sparsity_group", "score", "low", "high"]
    columns += ["truncated", "metric_failed"]
    return table[columns].assign(tasks=len(set(scores.tasks)), prompts=len(scores.tasks)).reset_index(drop=True)


def in_legend_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by criterion, as legends do, then by target."""
    order = {name: place for place, name in enumerate(style.ordered(list(table["criterion"])))}
    return table.sort_values(["criterion", "target"], key=lambda column: column.map(order).fillna(column))


def verdict(low: float, high: float) -> str:
    """What the interval of a difference says: it leaves out 0 on one side, or not."""
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"
