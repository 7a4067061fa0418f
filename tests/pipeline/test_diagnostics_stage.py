"""The diagnostics stage on the smoke experiment's random model, against what the oracle stage recorded."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan
from headscope.pipeline.plan.node import ancestors
from headscope.pipeline.store.oracle_tables import read_estimates, read_masses

ROOT = Path(__file__).parents[2]
OVERRIDES = ["experiment=smoke", "benchmark.ruler.lengths=[640]", "figure=[mass_fit,gaussian_fit]"]
OVERRIDES += ["diagnostics.sinks=[0,16]", "diagnostics.recents=[64,128,1024]"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders of fwe's oracle and diagnostics nodes, by stage."""
    results = tmp_path_factory.mktemp("results")
    planned = plan.build(OVERRIDES, ROOT).nodes
    wanted = [n for s in ("oracle", "diagnostics") for n in planned[s].values() if json.loads(n.spec)["task"] == "fwe"]
    for node in ancestors(wanted):
        parents = [results / parent.address for parent in node.parents]
        stage.run(node.stage, json.loads(node.spec), results / node.address, parents)
    return {node.stage: results / node.address for node in wanted}


def test_errors_are_those_of_the_oracles_tables_on_evaluation_prompts(folders: dict[str, Path]) -> None:
    fits = pd.read_parquet(folders["diagnostics"] / "fits.parquet")
    masses = list(read_masses(folders["oracle"], "evaluation"))
    guesses = read_estimates(folders["oracle"], "gaussian_prompt", {m.prompt for m in masses})
    own = fits[(fits["sink"] == 16) & (fits["recent"] == 128)]
    assert set(fits["prompt"]) == {m.prompt for m in masses} and len(masses) == 2
    for m in masses:
        for (layer, head), row in own[own["prompt"] == m.prompt].set_index(["layer", "head"]).iterrows():
            error = (guesses[m.prompt] - m.bulk)[m.layer == layer, head]
            share = 1 / (1 + np.exp(m.local - m.bulk))[m.layer == layer, head]
            assert row["queries"] == len(error)
            found = row[["bias", "rmse", "lost_share"]].astype(float)
            np.testing.assert_allclose(found, [error.mean(), np.sqrt((error**2).mean()), share.mean()], atol=1e-4)


def test_every_window_that_leaves_a_bulk_has_a_row_for_every_head(folders: dict[str, Path]) -> None:
    fits = pd.read_parquet(folders["diagnostics"] / "fits.parquet")
    spectra = pd.read_parquet(folders["diagnostics"] / "spectra.parquet")
    counts = fits.groupby(["sink", "recent"]).size()
    assert set(counts.index) == {(16, 128), (0, 128), (16, 64)} and counts.nunique() == 1
    kv_heads = spectra.groupby(["prompt", "layer"]).size()
    heads = fits.groupby(["prompt", "layer", "sink", "recent"]).size()
    assert (spectra["quantiles"].map(len) == heads.iloc[0] // kv_heads.iloc[0]).all()
    assert (spectra["eigenvalues"].map(sum) - 1).abs().max() < 1e-5
    assert spectra["slow_share"].between(0, 1).all()
