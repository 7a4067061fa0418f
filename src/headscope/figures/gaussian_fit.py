"""Where the Gaussian model of the bulk breaks: its error by window and task, Q-Q, what goes with it, key spectra."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from headscope.errors import ConfigError
from headscope.figures.common import bootstrap, diagnosed, style
from headscope.figures.common.diagnosed import ALL, GaussianDiagnosis
from headscope.figures.common.tables import Tables

NORMAL = np.linspace(-3, 3, 41)
"""Normal quantiles that the stage looks scores up at."""
LABELS = {
    "score_std": "std of scores (nats)",
    "top_1": "mass of the top key (share)",
    "kurtosis": "excess kurtosis",
    "slow_share": "variance in slow RoPE\npairs (share)",
}
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D1F")
DASHES = ("-", "--", ":")


def draw(
    tables: Tables, title: dict[str, Any], resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> tuple[Figure, pd.DataFrame]:
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
        found = diagnosed.read([node for node in tables.diagnostics if node.spec["length"] == length])
        drawn = _numbers(found, resamples, seed)
        _upper(axes[2 * row], drawn, found.window)
        _lower(figure, axes[2 * row + 1], drawn)
        if len(lengths) > 1:
            axes[2 * row, 0].set_title(f"{length:,} tokens", loc="left")
        parts += [part.assign(length=length) for part in drawn.values()]
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    style.finish(figure, title, *_notes(found.window, resamples))
    return figure, pd.concat(parts, ignore_index=True)


def _numbers(found: GaussianDiagnosis, resamples: int, seed: int) -> dict[str, pd.DataFrame]:
    return {
        "window": diagnosed.errors(found, resamples, seed),
        "head": diagnosed.heads(found),
        "correlation": diagnosed.correlations(found, resamples, seed),
        "quantile": diagnosed.quantiles(found, NORMAL),
        "spectrum": diagnosed.spectra(found),
    }


def _notes(window: tuple[int, int], resamples: int) -> list[str]:
    return [
        "Error: estimated less true bulk log mass; every task counts the same.",
        f"Window {window[0]} + {window[1]} where none is named.",
        f"Bands of the errors and brackets: {bootstrap.METHOD.format(resamples=resamples)}.",
        "Q-Q: 5-95 % of heads, their medians by task; spectrum: range and median over KV heads; no interval.",
        "A dot is a head; rho: rank correlation over heads.",
    ]


def _upper(axes: Any, drawn: dict[str, pd.DataFrame], window: tuple[int, int]) -> None:
    errors = drawn["window"]
    axes[1].sharey(axes[0])  # before anything is drawn, so that both make room
    _errors(axes[0], errors[errors["sink"] == window[0]], "recent")
    _errors(axes[1], errors[errors["recent"] == window[1]], "sink")
    axes[0].set_ylabel("RMSE of log mass (nats)")
    _quantiles(axes[2], drawn["quantile"])
    _spectrum(axes[3], drawn["spectrum"])


def _look(tasks: list[str]) -> Callable[[str], dict[str, Any]]:
    """Line of each task, and of all of them."""
    places = {task: place for place, task in enumerate(sorted({*tasks} - {ALL}))}

    def look(task: str) -> dict[str, Any]:
        if task == ALL:
            return {"color": style.INK, "lw": 1.6}
        turn, place = divmod(places[task], len(COLOURS))
        return {"color": COLOURS[place], "ls": DASHES[turn % len(DASHES)], "lw": 0.9}

    return look


def _errors(ax: Axes, errors: pd.DataFrame, varied: str) -> None:
    values = sorted(errors[varied].unique())
    look = _look(errors["task"].tolist())
    for (task, statistic), line in errors.sort_values(varied).groupby(["task", "statistic"]):
        x = [values.index(value) for value in line[varied]]
        if statistic == "RMSE":
            ax.plot(x, line["value"], marker="o", ms=2, label=f"{task}", **look(str(task)))
        elif task == ALL:
            ax.plot(x, line["value"], marker="o", ms=2, label="median head", color=style.GREY, ls="--")
        if task == ALL:
            ax.fill_between(x, line["low"], line["high"], color=style.GREY, alpha=0.25, lw=0)
    ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    ax.set(yscale="log", xlabel=f"{varied} (keys)")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def _quantiles(ax: Axes, quantiles: pd.DataFrame) -> None:
    look = _look(quantiles["task"].tolist())
    for task, line in quantiles.groupby("task"):
        ax.plot(line["normal"], line["value"], **look(str(task)))
        if task == ALL:
            ax.fill_between(line["normal"], line["low"], line["high"], color=style.GREY, alpha=0.25, lw=0)
    ax.axline((0, 0), slope=1, color="#D55E00", lw=0.8, ls="--")
    ax.set(xlabel="Gaussian quantile", ylabel="score / std")


def _spectrum(ax: Axes, spectrum: pd.DataFrame) -> None:
    ax.plot(spectrum["rank"], spectrum["value"], color=style.INK)
    ax.fill_between(spectrum["rank"], spectrum["low"], spectrum["high"], color=style.GREY, alpha=0.25, lw=0)
    ax.set(yscale="log", xlabel="eigenvalue of the keys'\ncovariance (rank)", ylabel="share of the trace")


def _lower(figure: Figure, axes: Any, drawn: dict[str, pd.DataFrame]) -> None:
    heads, correlation = drawn["head"], drawn["correlation"].set_index("driver")
    for ax in axes[1:]:
        ax.sharey(axes[0])
    for ax, (driver, label) in zip(axes, LABELS.items(), strict=True):
        dots = ax.scatter(heads[driver], heads["rmse"], c=heads["layer"], cmap="viridis", s=5, lw=0)
        rho = correlation.loc[driver]
        ax.set_title(f"rho {rho['value']:.2f} [{rho['low']:.2f}, {rho['high']:.2f}]")
        ax.set(yscale="log", xlabel=label)
        ax.yaxis.set_major_formatter("{x:g}")
    axes[0].set_ylabel("RMSE of a head (nats)")
    figure.colorbar(dots, ax=axes[-1], label="layer", pad=0.02, aspect=25)
