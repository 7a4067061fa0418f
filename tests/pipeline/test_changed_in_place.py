"""A model folder whose weights change in place: refused before anything is stored, and taken anew after the remedy."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from headscope import __main__ as cli
from headscope.benchmarks.prose import packaged_prose, sentences
from headscope.errors import AssetError
from headscope.models.tiny import tiny_llama, tiny_tokenizer
from headscope.pipeline.commands import stage
from headscope.pipeline.plan import plan as planning
from headscope.pipeline.plan.unfinished import unfinished
from headscope.pipeline.store.intact import problem

ROOT = Path(__file__).parents[2]
SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "positions": 4096}


def make_model(folder, seed):
    """Write a model into a folder; another seed changes nothing but the weights."""
    tiny_llama(**SIZES, hidden=32, vocab=2000, seed=seed).save_pretrained(folder)
    if not (folder / "tokenizer.json").exists():
        tiny_tokenizer(sentences(packaged_prose())[:200], 2000).save_pretrained(folder)


def run(plan, *stages):
    """Run the jobs that are to be run, of some stages."""
    for address in unfinished(plan):
        [node] = [node for node in plan if node.address == address]
        if node.stage in stages:
            results = plan.root / plan.results
            stage.run(node.stage, json.loads(node.spec), results / address, [results / p.address for p in node.parents])


def answers(results):
    [file] = results.glob("dense/*/answers.parquet")
    return pq.read_table(file)["tokens"].to_pylist()


def test_a_model_that_changed_is_refused_before_anything_is_stored_and_then_taken_anew(tmp_path, capsys):
    folder, results = tmp_path / "model", tmp_path / "results"
    options = ["experiment=smoke", "benchmark.ruler.lengths=[640]", "benchmark.ruler.tasks=[niah_single_1]"]
    options += [
        "benchmark.ruler.samples.calibration=1",
        "benchmark.ruler.samples.evaluation=1",
        "criterion=[dense,qada]",
        "model=folder",
        "model.name=mine",
        "model.positions=4096",
    ]
    options += [f"model.expect.{name}={size}" for name, size in SIZES.items()]
    options += [f"model.source.path={folder}", f"results={results}"]
    make_model(folder, seed=0)
    plan = planning.build(options, ROOT)
    run(plan, "assets", "prompts", "dense")
    before = answers(results)
    [dense] = plan.nodes["dense"].values()
    stage_again = dense.stage, json.loads(dense.spec), tmp_path / "results/dense/again"

    make_model(folder, seed=1)
    stored = sorted(results.rglob("*"))
    with pytest.raises(AssetError, match=r"model\.safetensors has changed since it was fetched; .*verify --delete"):
        stage.run(*stage_again, [results / parent.address for parent in dense.parents])
    assert sorted(results.rglob("*")) == stored
    assert {node.address for node in plan if node.stage in ("assets", "prompts", "dense")} <= unfinished(plan).keys()

    assert cli.main(["verify", *options]) == 1
    said = capsys.readouterr().out
    assert said.count("model.safetensors has changed since it was fetched") == 1
    assert said.count(": made from damaged assets/mine--") == 2  # prompts and dense answers
    assert cli.main(["verify", "--delete", *options]) == 0
    run(plan, "assets", "prompts", "dense")
    assert answers(results) != before
    make_model(folder, seed=0)
    run(plan, "assets", "prompts", "dense")  # without `verify`: a run sees it too
    assert answers(results) == before


def test_a_link_that_names_another_model_or_mirror_now_is_a_change(tmp_path):
    for version in ("1", "2"):
        make_model(tmp_path / f"model{version}", seed=int(version))
        (tmp_path / f"mirror{version}").mkdir()
        (tmp_path / f"mirror{version}" / "words.json").write_text(f'["{version}"]')
    links = [tmp_path / "model", tmp_path / "mirror"]
    for link in links:
        link.symlink_to(f"{link}1")
    model = {"kind": "model", "name": "mine", "source": {"type": "folder", "path": str(links[0])}, "expect": {}}
    data = {"kind": "data", "name": "words", "source": "url", "mirror": str(links[1]), "local": ["words.json"]}
    folders = [tmp_path / "results/assets" / spec["name"] for spec in (model, data)]
    for folder, spec in zip(folders, (model, data), strict=True):
        stage.run("assets", spec, folder, [])
        assert problem(folder) is None
    for link in links:
        link.unlink()
        link.symlink_to(f"{link}2")
    assert all("has changed since it was fetched" in (problem(folder) or "") for folder in folders)
