"""The figure of the Gaussian's fit, from synthetic diagnostics."""

import numpy as np
import pandas as pd
import pytest
from synthetic_tables import FakeNode

from headscope.errors import ConfigError
from headscope.figures import gaussian_fit
from headscope.figures.common import bootstrap
from headscope.figures.common.tables import Tables
from headscope.heads.gaussian_fit import NORMAL
from headscope.pipeline.stages.diagnostics import FITS, MEASURES, SPECTRA

WINDOWS = [(16, 128), (0, 128), (16, 32), (16, 1024)]
LAYERS, HEADS, GROUP = 3, 4, 2


def node(root, task, samples, scale, seed=0):
    """Errors that grow with the layer and the task's scale; the last prompt has no bulk with the widest window."""
    rng = np.random.default_rng(seed)
    fits, spectra = [], []
    for prompt in (f"{task}-{n}" for n in range(samples)):
        for layer in range(LAYERS):
            for head in range(HEADS):
                for sink, recent in WINDOWS[: 3 if prompt.endswith(str(samples - 1)) else 4]:
                    values = dict(zip(MEASURES, rng.random(len(MEASURES)), strict=True))
                    values["rmse"] = scale * (1 + 4 * layer + head) * (2 if sink == 0 else 1) * rng.uniform(0.9, 1.1)
                    values["top_1"] = (4 * layer + head) / 12
                    place = {"prompt": prompt, "layer": layer, "head": head, "sink": sink, "recent": recent}
                    fits.append({**place, "queries": 9, **values})
            for kv_head in range(HEADS // GROUP):
                shares = np.sort(rng.dirichlet(np.ones(8)))[::-1]
                quantiles = [(NORMAL * (1 + 0.1 * n)).tolist() for n in range(GROUP)]
                spectra.append({"prompt": prompt, "layer": layer, "kv_head": kv_head, "eigenvalues": shares.tolist(),
                                "effective_rank": 3.0, "slow_share": 0.1 * layer, "quantiles": quantiles})  # fmt: skip
    folder = root / task
    folder.mkdir()
    pd.DataFrame(fits, columns=FITS.names).to_parquet(folder / "fits.parquet")
    pd.DataFrame(spectra, columns=SPECTRA.names).to_parquet(folder / "spectra.parquet")
    window = {"sink": 16, "recent": 128}
    return FakeNode(folder, {"benchmark": "ruler", "task": task, "length": 1024, "window": window})


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    root = tmp_path_factory.mktemp("diagnostics")
    return [node(root, "fwe", 2, 1.0), node(root, "niah_single_1", 3, 2.0, seed=1)]


@pytest.fixture(scope="module")
def drawn(nodes, title):
    return gaussian_fit.draw(Tables([], [], diagnostics=nodes), title, resamples=200)


def rmse(frame):
    """Root of the mean over tasks and their prompts of the heads' mean squares."""
    squares = (frame["rmse"] ** 2).groupby([frame["task"], frame["prompt"]]).mean()
    return np.sqrt(squares.groupby("task").mean().mean())


def test_errors_by_window_weigh_tasks_equally_and_leave_out_windows_that_a_prompt_lacks(nodes, drawn) -> None:
    rows = pd.concat([pd.read_parquet(n.folder / "fits.parquet").assign(task=n.spec["task"]) for n in nodes])
    table = drawn[1][drawn[1]["part"] == "window"]
    assert set(zip(table["sink"], table["recent"], strict=True)) == set(WINDOWS[:3])
    for task in (gaussian_fit.ALL, "fwe", "niah_single_1"):
        of_task = rows if task == gaussian_fit.ALL else rows[rows["task"] == task]
        for sink, recent in WINDOWS[:3]:
            here = table[(table["task"] == task) & (table["sink"] == sink) & (table["recent"] == recent)]
            found = here.set_index("statistic").loc["RMSE"]
            assert found["value"] == pytest.approx(rmse(of_task[(of_task.sink == sink) & (of_task.recent == recent)]))
            assert found["low"] <= found["value"] <= found["high"]


def test_heads_and_their_rank_correlations(drawn) -> None:
    table = drawn[1]
    heads = table[table["part"] == "head"]
    assert len(heads) == LAYERS * HEADS and heads["slow_share"].tolist() == pytest.approx(
        [0.0] * 4 + [0.1] * 4 + [0.2] * 4
    )
    rho = table[table["part"] == "correlation"].set_index("driver")
    assert rho.loc["top_1", "value"] == pytest.approx(1) and (rho["low"] <= rho["high"]).all()
    for driver in ("kurtosis", "slow_share"):  # heads of a layer share the latter
        expected = heads[[driver, "rmse"]].rank().corr().iloc[0, 1]
        assert rho.loc[driver, "value"] == pytest.approx(expected)


def test_the_quantile_band_is_over_heads_and_the_spectrums_over_kv_heads(nodes, drawn) -> None:
    quantiles = drawn[1][(drawn[1]["part"] == "quantile") & (drawn[1]["task"] == "fwe")]
    np.testing.assert_allclose(quantiles["value"], 1.05 * quantiles["normal"], atol=1e-6)
    np.testing.assert_allclose(quantiles["high"].iloc[-1], 3.3, rtol=1e-6)
    spectrum = drawn[1][drawn[1]["part"] == "spectrum"]
    rows = gaussian_fit.DiagnosticRows.read(nodes)
    shares = np.stack(rows.spectra["eigenvalues"].tolist()).reshape(5, 6, 8)
    means = np.tensordot(bootstrap.equal_weights(rows.tasks), shares, 1)
    np.testing.assert_allclose(
        spectrum[["low", "value", "high"]].T, np.percentile(means, [0, 50, 100], axis=0), rtol=1e-6
    )


def test_what_is_in_the_table_is_drawn(drawn) -> None:
    figure, table = drawn
    errors = table[(table["part"] == "window") & (table["statistic"] == "RMSE") & (table["sink"] == 16)]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    for task, of_task in errors.sort_values("recent").groupby("task"):
        np.testing.assert_allclose(lines[task], of_task["value"])
    heads = table[table["part"] == "head"]
    np.testing.assert_allclose(figure.axes[5].collections[0].get_offsets(), heads[["top_1", "rmse"]])
    assert "SmolLM2" in figure.texts[-1].get_text()


def test_the_stages_quantiles_are_the_figures() -> None:
    np.testing.assert_allclose(gaussian_fit.NORMAL, NORMAL, atol=1e-12)


def test_without_diagnostics_the_figure_says_what_to_give(title) -> None:
    with pytest.raises(ConfigError, match="reads"):
        gaussian_fit.draw(Tables([], []), title)
