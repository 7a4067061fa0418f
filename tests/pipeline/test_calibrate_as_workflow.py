"""`headscope.calibrate` finds what the workflow's stages find on the same prompts, and its recipes are conf's."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import headscope
from headscope.heads.outliers import OutlierRule
from headscope.inference import calibrate
from headscope.inference.criterion import RECIPES
from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan
from headscope.pipeline.plan.slices import CHUNK
from headscope.pipeline.stages.inputs import load_model, load_prompts
from headscope.pipeline.store.parents import Parents

ROOT = Path(__file__).parents[2]
CRITERIA = ("lost_output", "lost_output_gaussian", "qada")
OUTLIERS = 12
OVERRIDES = [
    "experiment=smoke",
    "benchmark.ruler.tasks=[fwe]",
    "benchmark.ruler.lengths=[640]",
    f"criterion=[dense,{','.join(CRITERIA)}]",
    *(f"criterion.{name}.outliers.count={OUTLIERS}" for name in CRITERIA[:2]),
]
STAGES = ("assets", "prompts", "dense", "probes", "moments", "oracle", "margins", "calibration")


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """Makes the folder of results and its plan, run up to calibration, once for each overrides."""

    @cache
    def run(*overrides: str) -> tuple:
        folder, planned = tmp_path_factory.mktemp("results"), plan.build([*OVERRIDES, *overrides], ROOT)
        for node in planned:
            if node.stage in STAGES:
                parents = [folder / p.address for p in node.parents]
                stage.run(node.stage, json.loads(node.spec), folder / node.address, parents)
        return folder, planned

    return run


def calibrated_twice(folder: Path, planned, name: str, **options) -> tuple:
    """A criterion that `headscope.calibrate` fits to the workflow's prompts, and the targets of its stages."""
    [dense] = planned.nodes["dense"].values()
    loaded = load_model(json.loads(dense.spec), parents := Parents([folder / p.address for p in dense.parents]))
    rows = [prompt.row for prompt in load_prompts(parents, loaded) if prompt.row["split"] == "calibration"]
    [node] = [n for n in planned.nodes["calibration"].values() if json.loads(n.spec)["criterion"] == name]
    expected = json.loads((folder / node.address / "calibration.json").read_text())["targets"]
    found = headscope.calibrate(
        loaded.model,
        loaded.tokenizer,
        [(row["text"][: row["question_offset"]], row["text"][row["question_offset"] :]) for row in rows],
        criterion=name,
        sparsity=[float(target) for target in expected],
        outliers=None if name == "qada" else OUTLIERS,
        max_new_tokens=rows[0]["max_new_tokens"],
        **options,
    )
    return found, expected


@pytest.mark.parametrize("name", CRITERIA)
def test_probes_maps_and_thresholds_are_the_workflows(workflow, name: str) -> None:
    folder, planned = workflow()
    found, expected = calibrated_twice(folder, planned, name)
    for target, entry in expected.items():
        assert found.thresholds[float(target)] == pytest.approx(entry["threshold"], rel=1e-5)
        assert ("map" in entry) == bool(found.map.layers)
        for part in entry.get("map", {}):
            np.testing.assert_allclose(found.map.plain()[part], entry["map"][part], rtol=1e-5)
    if found.probes is not None:
        [probes] = planned.nodes["probes"].values()
        theirs = load_file(folder / probes.address / "probes.safetensors")
        torch.testing.assert_close(torch.stack(list(found.probes.queries.values())), theirs["queries"])
        torch.testing.assert_close(torch.stack(list(found.probes.weight.values())), theirs["weight"])


def test_thresholds_of_the_prompt_are_the_workflows(workflow) -> None:
    found, expected = calibrated_twice(*workflow("scope=prompt", "chunk=100"), "qada", scope="prompt", chunk=100)
    for target, entry in expected.items():
        assert found.thresholds[float(target)] == pytest.approx(entry["threshold"], rel=1e-5)
    folder, planned = workflow()
    assert found.thresholds != calibrated_twice(folder, planned, "qada")[0].thresholds


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_yaml_of_its_name(name: str) -> None:
    # A criterion with probes needs one with margins beside it, so that all are composed together.
    config = plan.build([f"criterion=[dense,{','.join(RECIPES)}]"], ROOT).points[0].config.criterion[name]
    recipe = RECIPES[name]
    assert recipe.kind == config.kind
    assert recipe.estimator == {k: v for k, v in dataclasses.asdict(config.estimator).items() if v is not None}
    assert recipe.outliers == OutlierRule(**(dataclasses.asdict(config.outliers) if config.outliers else {}))


def test_defaults_are_the_workflows() -> None:
    config = plan.build([], ROOT).points[0].config
    assert dataclasses.asdict(headscope.Window()) == {"sink": config.window.sink, "recent": config.window.recent}
    defaults = headscope.calibrate.__kwdefaults__
    assert defaults["chunk"] is config.chunk is None
    found = defaults["probes"], defaults["scope"], calibrate.CHUNK
    assert found == (config.calibration.probes, config.scope, CHUNK)
