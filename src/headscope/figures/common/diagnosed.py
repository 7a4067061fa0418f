"""The numbers behind the figure of the Gaussian's fit: errors by window, heads, quantiles and spectra of one length.

Every task counts the same, and each of its prompts. Shapes: P prompts, B resamples, W windows, N heads over all layers,
C drivers, Z quantiles, D head_dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headscope.figures.common import bootstrap
from headscope.figures.common.tables import Floats, Node

ALL = "all tasks"
DRIVERS = ("score_std", "top_1", "kurtosis", "slow_share")
"""What may explain the error of a head, beside it in the table of heads."""
HEAD = ("bias", "lost_share", "skewness", "top_8", "top_64", "effective_rank", *DRIVERS)


@dataclass(frozen=True)
class GaussianDiagnosis:
    """Diagnostics of one length.

    Attributes:
        fits: rows of `fits.parquet` with the prompt's number in place of its id.
        spectra: rows of `spectra.parquet`, too.
        tasks: task of each prompt, [P].
        window: the configured (sink, recent).
    """

    fits: pd.DataFrame
    spectra: pd.DataFrame
    tasks: list[str]
    window: tuple[int, int]

    @property
    def configured(self) -> pd.DataFrame:
        """Rows of `fits` with the configured window, beside what their KV head shows."""
        sink, recent = self.window
        own = self.fits[(self.fits["sink"] == sink) & (self.fits["recent"] == recent)]
        group = (own["head"].max() + 1) // (self.spectra["kv_head"].max() + 1)
        columns = ["prompt", "layer", "kv_head", "slow_share", "effective_rank"]
        return own.assign(kv_head=own["head"] // group).merge(self.spectra[columns], on=columns[:3])


def read(nodes: Sequence[Node]) -> GaussianDiagnosis:
    """Join the diagnostics nodes of one length."""
    fits, spectra, tasks = list[pd.DataFrame](), list[pd.DataFrame](), list[str]()
    for node in nodes:
        tables = [pd.read_parquet(node.folder / f"{name}.parquet") for name in ("fits", "spectra")]
        numbers = {prompt: len(tasks) + n for n, prompt in enumerate(tables[1]["prompt"].unique())}
        tasks += [node.spec["task"]] * len(numbers)
        for parts, table in zip((fits, spectra), tables, strict=True):
            parts.append(table.assign(prompt=table["prompt"].map(numbers)))
    window = nodes[0].spec["window"]
    return GaussianDiagnosis(pd.concat(fits), pd.concat(spectra), tasks, (window["sink"], window["recent"]))


def errors(found: GaussianDiagnosis, resamples: int, seed: int) -> pd.DataFrame:
    """Error of the log mass by task, window and statistic, with intervals; windows that every prompt has a bulk with.

    `RMSE` is over all pairs of head and query, `median head` the RMSE of the prompt's median head; both in nats.
    """
    rows = found.fits.assign(square=found.fits["rmse"].astype(float) ** 2)
    grouped = rows.groupby(["prompt", "sink", "recent"])
    statistics = {"RMSE": grouped["square"].mean(), "median head": grouped["rmse"].median()}
    parts = []
    for task in (ALL, *sorted(set(found.tasks))):
        members = [n for n, name in enumerate(found.tasks) if task in (ALL, name)]
        weights = _weights([found.tasks[n] for n in members], resamples, seed)
        for name, values in statistics.items():
            wide = values.unstack(["sink", "recent"]).dropna(axis=1)
            means = weights @ wide.loc[members].to_numpy()
            means = np.sqrt(means) if name == "RMSE" else means
            low, high = bootstrap.interval(means[1:])
            columns = {"value": means[0], "low": low, "high": high, "prompts": len(members)}
            parts.append(wide.columns.to_frame(index=False).assign(task=task, statistic=name, **columns))
    return pd.concat(parts, ignore_index=True).assign(part="window")


def _weights(tasks: Sequence[str], resamples: int, seed: int) -> Floats:
    """Weights of the mean and of its resamples, [1 + B, P]."""
    return np.vstack([bootstrap.equal_weights(tasks), bootstrap.resampled_weights(tasks, resamples, seed)])


def _by_head(found: GaussianDiagnosis, column: str) -> pd.DataFrame:
    """A measure with the configured window, [P, N]."""
    return found.configured.pivot(index="prompt", columns=["layer", "head"], values=column).astype(float)


def heads(found: GaussianDiagnosis) -> pd.DataFrame:
    """Measures of each head with the configured window: the RMSE over all pairs, and means."""
    square = _by_head(found, "rmse") ** 2
    point = bootstrap.equal_weights(found.tasks)
    columns = {name: point @ _by_head(found, name).to_numpy() for name in HEAD}
    place = square.columns.to_frame(index=False)
    return place.assign(part="head", rmse=np.sqrt(point @ square.to_numpy()), **columns)


def correlations(found: GaussianDiagnosis, resamples: int, seed: int) -> pd.DataFrame:
    """Rank correlation over heads of each driver with the RMSE, with intervals."""
    weights = _weights(found.tasks, resamples, seed)
    error = _ranks(weights @ _by_head(found, "rmse").to_numpy() ** 2)
    drivers = [_ranks(weights @ _by_head(found, name).to_numpy()) for name in DRIVERS]
    drawn = np.stack([(error * ranks).mean(1) for ranks in drivers], axis=1)  # [1 + B, C]
    low, high = bootstrap.interval(drawn[1:])
    columns = {"driver": DRIVERS, "value": drawn[0], "low": low, "high": high}
    return pd.DataFrame({"part": "correlation", **columns, "heads": error.shape[1]})


def _ranks(values: Floats) -> Floats:
    """Standardised ranks within each row, equal values sharing theirs, [1 + B, N]."""
    ranks = pd.DataFrame(values).rank(axis=1).to_numpy()
    centred = ranks - ranks.mean(1, keepdims=True)
    return np.asarray(centred / np.maximum(centred.std(1, keepdims=True), 1e-12))


def quantiles(found: GaussianDiagnosis, normal: Floats) -> pd.DataFrame:
    """Standardised score quantiles over all heads, by task: 5 %, median and 95 % of the heads' means, [Z] each."""
    lists = np.stack([np.stack(row) for row in found.spectra["quantiles"]])  # [rows, heads of a KV head, Z]
    parts = []
    for task in (ALL, *sorted(set(found.tasks))):
        weights = bootstrap.equal_weights([name for name in found.tasks if task in (ALL, name)])
        members = [n for n, name in enumerate(found.tasks) if task in (ALL, name)]
        by_prompt = np.stack(
            [lists[(found.spectra["prompt"] == n).to_numpy()].reshape(-1, len(normal)) for n in members]
        )
        low, median, high = np.nanpercentile(np.tensordot(weights, by_prompt, 1), [5, 50, 95], axis=0)
        parts.append(pd.DataFrame({"task": task, "normal": normal, "low": low, "value": median, "high": high}))
    return pd.concat(parts, ignore_index=True).assign(part="quantile")


def spectra(found: GaussianDiagnosis) -> pd.DataFrame:
    """Eigenvalues as shares of the trace: least, median and most over KV heads of their means over prompts, [D]."""
    weights = bootstrap.equal_weights(found.tasks)[found.spectra["prompt"].to_numpy()]
    shares = pd.DataFrame(np.stack(found.spectra["eigenvalues"].tolist()) * weights[:, None])
    keys = [found.spectra[name].to_numpy() for name in ("layer", "kv_head")]
    means = shares.groupby(keys).sum()
    columns = {"low": means.min(), "value": means.median(), "high": means.max()}
    return pd.DataFrame({"part": "spectrum", "rank": np.arange(1, means.shape[1] + 1), **columns})
