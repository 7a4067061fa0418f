"""The releases that compute are part of an address, and a job refuses others."""

import json
from importlib.metadata import version

import pytest
from toy_nodes import install, make, write_spec

from headscope.errors import ConfigError
from headscope.pipeline.assets.model_check import findings_of
from headscope.pipeline.plan import slices
from headscope.pipeline.store import versions

RUNS_MODEL = ("moments", "dense", "probes", "oracle", "margins", "evaluation")


def addresses(planned, stage):
    return {node.address for node in planned.nodes[stage].values()}


def test_all_that_runs_the_model_names_its_releases_and_prompts_that_of_the_tokenizer(build):
    installed = {name: version(name).partition("+")[0] for name in ("torch", "transformers")}
    planned = build("experiment=smoke", "criterion=[dense,qada,qada_random_words,lost_output]")
    for stage in RUNS_MODEL:
        assert [json.loads(node.spec)["versions"] for node in planned.nodes[stage].values()] == [installed] * len(
            planned.nodes[stage]
        )
    for node in planned.nodes["prompts"].values():
        assert json.loads(node.spec)["versions"] == {"transformers": installed["transformers"]}


def test_another_release_is_another_address_also_where_the_composition_is_cached(build, monkeypatch):
    before = build("experiment=smoke")
    monkeypatch.setattr(slices, "release", lambda package: "9.9.9" if package == "torch" else version(package))
    after = build("experiment=smoke")
    assert not addresses(before, "dense") & addresses(after, "dense")
    assert addresses(before, "prompts") == addresses(after, "prompts")
    assert addresses(after, "dense") == addresses(build("experiment=smoke", "versions.torch=9.9.9"), "dense")


def test_a_job_refuses_other_releases_than_its_slice_names(tmp_path, monkeypatch):
    install(monkeypatch, write_spec)
    make(tmp_path, "first", {"kind": "data", "versions": versions.releases()})
    with pytest.raises(ConfigError, match=r"the plan is for torch 1\.0\.0, and this machine has .* versions\.torch="):
        make(tmp_path, "second", {"kind": "data", "versions": {"torch": "1.0.0"}})


def test_a_package_that_is_not_installed_is_named_with_its_option():
    with pytest.raises(ConfigError, match=r"nothing is not installed; .* versions\.nothing"):
        versions.release("nothing")


def test_a_check_of_other_releases_is_done_again():
    assert findings_of({"checked": [], "versions": versions.releases()}) == []
    assert findings_of({"checked": [], "versions": {**versions.releases(), "torch": "1.0.0"}}) is None
