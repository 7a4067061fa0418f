"""(m) Where the Gaussian model of the bulk breaks: its error by window and task, Q-Q, what goes with it, key spectra.

Every task counts the same, and each of its prompts. Shapes: P prompts, B resamples, N heads over all layers, C drivers,
Z quantiles, D head_dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, panels, style
from headscope.figures.common.node import Node
from headscope.figures.common.tables import Tables

NORMAL = np.linspace(-3, 3, 41)
"""Normal quantiles, [Z], that the stage looks scores up at."""
ALL = "all tasks"
DRIVERS = {
    "score_std": "std of scores (nats)",
    "top_1": "mass of the top key (share)",
    "kurtosis": "excess kurtosis",
    "slow_share": "variance in slow RoPE\npairs (share)",
}
"""What may explain the error of a head."""
HEAD = ("bias", "lost_share", "skewness", "top_8", "top_64", "effective_rank", *DRIVERS)
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F")
DASHES = ("-", "--", ":")


def draw(tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES) -> tuple[Figure, pd.DataFrame]:
    """Draw two rows of panels a length; benchmarks of one length are pooled.

    Raises:
        ConfigError: no diagnostics node.
    """
    lengths = sorted({node.spec["length"] for node in tables.diagnostics})
    if not lengths:
        raise ConfigError("this figure needs diagnostics nodes: give it figure.<name>.reads=[diagnostics]")
    figure = style.new_figure(style.DOUBLE, 0.7 + 3.7 * len(lengths))
    axes = figure.subplots(2 * len(lengths), 4, squeeze=False)
    parts = []
    for row, length in enumerate(lengths):
        rows = DiagnosticRows.read([node for node in tables.diagnostics if node.spec["length"] == length])
        window, head, quantile, spectrum = errors(rows, resamples), heads(rows), quantiles(rows), spectra(rows)
        correlation = correlations(rows, resamples)
        _upper(axes[2 * row], window, quantile, spectrum, rows.window)
        _lower(figure, axes[2 * row + 1], head, correlation)
        axes[2 * row, 0].set_title(f"{length:,} tokens", loc="left")
        named = {"window": window, "head": head, "correlation": correlation, "quantile": quantile, "spectrum": spectrum}
        parts += [table.assign(part=part, length=length) for part, table in named.items()]
    panels.legend(figure, 4)
    style.finish(figure, title, "Error: estimated less true bulk log mass; every task counts the same.",
                 "Window {} + {} where none is named.".format(*rows.window),
                 f"Bands of the errors and brackets: {bootstrap.method(resamples)}.",
                 "Q-Q: 5-95 % of heads, their medians by task; spectrum: range and median over KV heads; no interval.",
                 "A dot is a head; rho: rank correlation over heads.")  # fmt: skip
    return figure, pd.concat(parts, ignore_index=True)


@dataclass(frozen=True)
class DiagnosticRows:
    """Diagnostics of all tasks of one length.

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

    @classmethod
    def read(cls, nodes: Sequence[Node]) -> "DiagnosticRows":
        """Join the diagnostics nodes of one length."""
        fits, spectra, tasks = list[pd.DataFrame](), list[pd.DataFrame](), list[str]()
        for node in nodes:
            files = [pd.read_parquet(node.folder / f"{name}.parquet") for name in ("fits", "spectra")]
            numbers = {prompt: len(tasks) + n for n, prompt in enumerate(files[1]["prompt"].unique())}
            tasks += [node.spec["task"]] * len(numbers)
            for parts, rows in zip((fits, spectra), files, strict=True):
                parts.append(rows.assign(prompt=rows["prompt"].map(numbers)))
        window = nodes[0].spec["window"]
        return cls(pd.concat(fits), pd.concat(spectra), tasks, (window["sink"], window["recent"]))

    def groups(self) -> Iterator[tuple[str, list[int]]]:
        """Yield all tasks, then each task, with the numbers of their prompts."""
        yield ALL, list(range(len(self.tasks)))
        for task in sorted(set(self.tasks)):
            yield task, [number for number, name in enumerate(self.tasks) if name == task]

    def by_head(self, column: str) -> pd.DataFrame:
        """Return a measure with the configured window, [P, N]."""
        sink, recent = self.window
        own = self.fits[(self.fits["sink"] == sink) & (self.fits["recent"] == recent)]
        group = (own["head"].max() + 1) // (self.spectra["kv_head"].max() + 1)
        own = own.assign(kv_head=own["head"] // group)
        if column not in own:
            own = own.merge(self.spectra[["prompt", "layer", "kv_head", column]], on=["prompt", "layer", "kv_head"])
        return own.pivot(index="prompt", columns=["layer", "head"], values=column).astype(float)


def errors(rows: DiagnosticRows, resamples: int) -> pd.DataFrame:
    """Return errors of the log mass in nats by task, window and statistic; windows that every prompt has a bulk with.

    `RMSE` is over all pairs of head and query, `median head` the RMSE of the prompt's median head.
    """
    grouped = rows.fits.assign(square=rows.fits["rmse"].astype(float) ** 2).groupby(["prompt", "sink", "recent"])
    statistics = {"RMSE": grouped["square"].mean(), "median head": grouped["rmse"].median()}
    parts = []
    for task, members in rows.groups():
        weights = bootstrap.all_weights([rows.tasks[number] for number in members], resamples)
        for statistic, values in statistics.items():
            wide = values.unstack(["sink", "recent"]).dropna(axis=1)
            means = weights @ wide.loc[members].to_numpy()
            estimate = bootstrap.estimate(np.sqrt(means) if statistic == "RMSE" else means)
            table = wide.columns.to_frame(index=False).assign(task=task, statistic=statistic, prompts=len(members))
            parts.append(table.assign(**estimate._asdict()))
    return pd.concat(parts, ignore_index=True)


def heads(rows: DiagnosticRows) -> pd.DataFrame:
    """Return each head's measures with the configured window: the RMSE over all pairs, and means."""
    square = rows.by_head("rmse") ** 2
    weights = bootstrap.equal_weights(rows.tasks)
    columns = {name: weights @ rows.by_head(name).to_numpy() for name in HEAD}
    return square.columns.to_frame(index=False).assign(rmse=np.sqrt(weights @ square.to_numpy()), **columns)


def correlations(rows: DiagnosticRows, resamples: int) -> pd.DataFrame:
    """Return the rank correlation over heads of each driver with the RMSE, with intervals."""
    weights = bootstrap.all_weights(rows.tasks, resamples)
    error = weights @ rows.by_head("rmse").to_numpy() ** 2
    drivers = [weights @ rows.by_head(name).to_numpy() for name in DRIVERS]
    estimate = bootstrap.estimate(np.stack([bootstrap.rank_correlation(error, driver) for driver in drivers], axis=1))
    return pd.DataFrame({"driver": list(DRIVERS), **estimate._asdict(), "heads": error.shape[1]})


def quantiles(rows: DiagnosticRows) -> pd.DataFrame:
    """Return standardised score quantiles by task: 5 %, median and 95 % of the heads' means over prompts, [Z] each."""
    lists = np.stack([np.stack(row) for row in rows.spectra["quantiles"]])  # [rows, heads of a KV head, Z]
    prompts = rows.spectra["prompt"].to_numpy()
    parts = []
    for task, members in rows.groups():
        weights = bootstrap.equal_weights([rows.tasks[number] for number in members])
        by_prompt = np.stack([lists[prompts == number].reshape(-1, len(NORMAL)) for number in members])
        low, median, high = np.nanpercentile(np.tensordot(weights, by_prompt, 1), [5, 50, 95], axis=0)
        parts.append(pd.DataFrame({"task": task, "normal": NORMAL, "low": low, "value": median, "high": high}))
    return pd.concat(parts, ignore_index=True)


def spectra(rows: DiagnosticRows) -> pd.DataFrame:
    """Return eigenvalues as shares of the trace: least, median and most over KV heads of their means, [D] each."""
    weights = bootstrap.equal_weights(rows.tasks)[rows.spectra["prompt"].to_numpy()]
    shares = pd.DataFrame(np.stack(rows.spectra["eigenvalues"].tolist()) * weights[:, None])
    means = shares.groupby([rows.spectra[name].to_numpy() for name in ("layer", "kv_head")]).sum()
    columns = {"low": means.min(), "value": means.median(), "high": means.max()}
    return pd.DataFrame({"rank": np.arange(1, means.shape[1] + 1), **columns})


def _upper(
    axes: Any, table: pd.DataFrame, quantile: pd.DataFrame, spectrum: pd.DataFrame, window: tuple[int, int]
) -> None:
    """Draw the error by window, the Q-Q plot and the spectrum."""
    axes[1].sharey(axes[0])  # before anything is drawn, so that both make room
    _errors(axes[0], table[table["sink"] == window[0]], "recent")
    _errors(axes[1], table[table["recent"] == window[1]], "sink")
    axes[0].set_ylabel("RMSE of log mass (nats)")
    for task, line in quantile.groupby("task"):
        axes[2].plot(line["normal"], line["value"], **_line(str(task), set(table["task"])))
        if task == ALL:
            _band(axes[2], line["normal"], line)
    axes[2].axline((0, 0), slope=1, color="#D55E00", lw=0.8, ls="--")
    axes[2].set(xlabel="Gaussian quantile", ylabel="score / std")
    axes[3].plot(spectrum["rank"], spectrum["value"], color=style.INK)
    _band(axes[3], spectrum["rank"], spectrum)
    axes[3].set(yscale="log", xlabel="eigenvalue of the keys'\ncovariance (rank)", ylabel="share of the trace")
    style.log_axis(axes[3].yaxis)


def _errors(ax: Axes, table: pd.DataFrame, varied: str) -> None:
    values = sorted(table[varied].unique())
    for (task, statistic), line in table.sort_values(varied).groupby(["task", "statistic"]):
        x = [values.index(value) for value in line[varied]]
        look = _line(str(task), set(table["task"])) if statistic == "RMSE" else {"color": style.GREY, "ls": "--"}
        if statistic == "RMSE" or task == ALL:
            ax.plot(x, line["value"], marker="o", ms=2, label=task if statistic == "RMSE" else statistic, **look)
        if task == ALL:
            _band(ax, x, line)
    ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    ax.set(yscale="log", xlabel=f"{varied} (keys)")
    style.log_axis(ax.yaxis)


def _line(task: str, tasks: set[str]) -> dict[str, Any]:
    """Return how the line of a task looks, or that of all of them."""
    if task == ALL:
        return {"color": style.INK, "lw": 1.6}
    turn, place = divmod(sorted(tasks - {ALL}).index(task), len(COLOURS))
    return {"color": COLOURS[place], "ls": DASHES[turn % len(DASHES)], "lw": 0.9}


def _band(ax: Axes, x: Any, line: pd.DataFrame) -> None:
    ax.fill_between(x, line["low"], line["high"], color=style.GREY, alpha=0.25, lw=0)


def _lower(figure: Figure, axes: Any, table: pd.DataFrame, correlation: pd.DataFrame) -> None:
    """Draw the error of each head against each driver."""
    for ax in axes[1:]:
        ax.sharey(axes[0])
    for ax, (driver, label) in zip(axes, DRIVERS.items(), strict=True):
        dots = ax.scatter(table[driver], table["rmse"], c=table["layer"], cmap="viridis", s=5, lw=0)
        rho = correlation.set_index("driver").loc[driver]
        ax.set_title(f"rho {rho['value']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]")
        ax.set(yscale="log", xlabel=label)
        style.log_axis(ax.yaxis)
    axes[0].set_ylabel("RMSE of a head (nats)")
    panels.colour_bar(figure, dots, axes[-1], "layer")
