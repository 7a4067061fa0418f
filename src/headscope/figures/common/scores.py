"""Scores of criteria and targets with intervals, and which tasks are too hard to count.

Shapes: P prompts, B resamples, C columns (criterion, target). Rows without a target (dense, local) carry target 0 here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, style
from headscope.figures.common.bootstrap import Estimate, Floats

SETTING = ["benchmark", "length"]
MEASURES = ["score", "sparsity", "kv_bytes"]
MEAN = "mean"
"""Stands in the column `task` of a mean over tasks."""
FLOOR = 20.0
"""A task that the dense model scores below cannot tell criteria apart: it is in no mean."""


def hard_tasks(rows: pd.DataFrame, floor: float) -> list[str]:
    """Return the tasks of one setting on which the dense model's mean score lies below `floor`."""
    means = rows[rows["criterion"] == "dense"].groupby("task")["score"].mean()
    return [str(task) for task in means.index[means < floor]]


def drop_hard_tasks(rows: pd.DataFrame, floor: float) -> pd.DataFrame:
    """Return the rows of the tasks that are not too hard; all rows if every task is."""
    easier = rows[~rows["task"].isin(hard_tasks(rows, floor))]
    return easier if len(easier) else rows


def drop_hard(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table whose task or mean is not too hard to count; all rows if every one is too hard."""
    easier = table[~table["hard"]]
    return easier if len(easier) else table


def groups(rows: pd.DataFrame, floor: float) -> Iterator[tuple[str, bool, pd.DataFrame]]:
    """Yield name, whether it is too hard, and rows of the mean over the tasks that count, then of each task.

    If all tasks are too hard, the mean is over all of them and too hard, too. Hard tasks come last.
    """
    hard = hard_tasks(rows, floor)
    tasks = sorted(rows["task"].unique(), key=lambda task: (task in hard, task))
    yield MEAN, len(hard) == len(tasks), drop_hard_tasks(rows, floor)
    yield from ((task, task in hard, rows[rows["task"] == task]) for task in tasks)


def require_dense(rows: pd.DataFrame) -> None:
    """Refuse rows that cannot be compared with the dense model.

    Raises:
        ConfigError: dense was not evaluated.
    """
    if "dense" not in set(rows["criterion"]):
        raise ConfigError("this figure measures against the criterion dense and has none: add criterion dense")


def require_targets(rows: pd.DataFrame, figure: str) -> None:
    """Refuse rows without a target sparsity.

    Raises:
        ConfigError: no criterion has a target.
    """
    if rows["target"].isna().all():
        raise ConfigError(
            f"figure {figure}: no criterion has a target; add one such as oracle, or leave the figure out"
        )


def nearest_target(rows: pd.DataFrame, target: float) -> float:
    """Return the evaluated target that is nearest to `target`."""
    return float(min(rows["target"].dropna().unique(), key=lambda evaluated: abs(evaluated - target)))


def notes(rows: pd.DataFrame, floor: float | None = None) -> list[str]:
    """Say in the footer what scores do not tell: tasks in no mean, prompts cut in the middle, metrics that failed."""
    lines = [] if floor is None else list(_hard_task_notes(rows, floor))
    cut = rows.drop_duplicates("prompt").groupby("benchmark")["truncated"].mean()
    lines += [f"{name}: {share:.0%} of the prompts lost their middle." for name, share in cut[cut > 0].items()]
    failed = int(rows["metric_failed"].sum())
    return [*lines, f"The metric failed on {failed:,} answers, which score 0."] if failed else lines


def _hard_task_notes(rows: pd.DataFrame, floor: float) -> Iterator[str]:
    for (benchmark, length), part in rows.groupby(SETTING, sort=True):
        tasks = hard_tasks(part, floor)
        every = len(tasks) == part["task"].nunique()
        where = "everywhere, so this is no comparison" if every else "not in the mean"
        if tasks:
            yield f"{benchmark}, {length:,} tokens: dense below {floor:g}, {where}: {', '.join(tasks)}."


@dataclass(frozen=True)
class Scores:
    """Scores of the same prompts under all criteria, and the weights of their resampled means.

    Attributes:
        columns: (criterion, target) of each column, target 0 for none.
        tasks: task of each prompt, [P].
        values: scores, [P, C].
        sparsity: achieved by each column on each prompt, [P, C].
        kv_bytes: read by each column on each prompt, as a share of reading every key and value, [P, C].
        weights: of the mean (row 0) and of its resamples, [1 + B, P].
    """

    columns: list[tuple[str, float]]
    tasks: list[str]
    values: Floats
    sparsity: Floats
    kv_bytes: Floats
    weights: Floats

    def mean(self, values: Floats) -> Estimate:
        """Return the mean over tasks of each column of [P, C], with its interval."""
        return bootstrap.estimate(self.weights @ values)

    def difference(self, one: tuple[str, float], other: tuple[str, float]) -> Floats:
        """Return the mean of the paired difference `one - other` in the data and in each resample, [1 + B]."""
        i, j = self.columns.index(one), self.columns.index(other)
        return np.asarray(self.weights @ (self.values[:, i] - self.values[:, j]))


def resample(rows: pd.DataFrame, resamples: int) -> Scores:
    """Bootstrap the prompts of some tasks; a task's prompts of all seeds are one stratum."""
    wide = rows.fillna({"target": 0.0}).pivot(
        index=["task", "seed", "index"], columns=["criterion", "target"], values=MEASURES
    )
    wide = wide.sort_index()
    tasks = [str(task) for task in wide.index.get_level_values("task")]
    values, sparsity, kv_bytes = (wide[name].to_numpy(dtype=np.float64) for name in MEASURES)
    columns = [(str(criterion), float(target)) for criterion, target in wide["score"].columns]
    return Scores(columns, tasks, values, sparsity, kv_bytes, bootstrap.all_weights(tasks, resamples))


def summarise(rows: pd.DataFrame, sampled: Scores) -> pd.DataFrame:
    """Return score with interval and achieved sparsities of each criterion and target, in the legend's order.

    Also the share of prompts that lost their middle, the answers that the metric failed on, and numbers of tasks and
    prompts.

    Args:
        rows: evaluation rows of the tasks to average over.
        sampled: their scores, resampled.
    """
    keys = pd.MultiIndex.from_tuples(sampled.columns, names=["criterion", "target"])
    intervals = pd.DataFrame(sampled.mean(sampled.values)._asdict(), keys).rename(columns={"value": "score"})
    filled = rows.fillna({"target": 0.0})
    shares = ["sparsity", "sparsity_group", "kv_bytes", "truncated"]
    by_task = filled.groupby(["criterion", "target", "task"])[shares].mean()
    table = by_task.groupby(["criterion", "target"]).mean().join(intervals)
    table = table.join(filled.groupby(["criterion", "target"])["metric_failed"].sum()).reset_index()
    table["target"] = table["target"].replace(0.0, np.nan)
    columns: list[Any] = ["criterion", "target", "sparsity", "sparsity_group", "kv_bytes", "score", "low", "high"]
    counts = {"tasks": len(set(sampled.tasks)), "prompts": len(sampled.tasks)}
    return in_legend_order(table)[[*columns, "truncated", "metric_failed"]].assign(**counts)


def shares_of_dense(rows: pd.DataFrame, sampled: Scores) -> pd.DataFrame:
    """Return `summarise` with `share`, the score as a share of dense, and its interval in place of the score's.

    Score and dense score are of the same resample. A resample on which dense scores 0 has no share, nor have the data
    (NaN).
    """
    scores = sampled.weights @ sampled.values
    dense = scores[:, [sampled.columns.index(("dense", 0.0))]]
    shares = np.full((3, len(sampled.columns)), np.nan)
    if dense[0] > 0:
        shares[:] = bootstrap.estimate((scores / np.where(dense > 0, dense, np.nan))[dense[:, 0] > 0])
    table = summarise(rows, sampled)
    places = [sampled.columns.index(key) for key in zip(table["criterion"], table["target"].fillna(0.0), strict=True)]
    share, low, high = shares[:, places]
    return table.assign(share=share, low=low, high=high)


def in_legend_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sort by criterion, as legends do, then by target."""
    order = {name: place for place, name in enumerate(style.ordered(list(table["criterion"])))}
    keyed = table.sort_values(["criterion", "target"], key=lambda column: column.map(order).fillna(column))
    return keyed.reset_index(drop=True)
