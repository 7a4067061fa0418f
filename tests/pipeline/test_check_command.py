"""`headscope check`: a table and a verdict for whatever names a model, or one line."""

import json
import sys
import time
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from headscope import __main__ as cli
from headscope.models.tiny import tiny_llama, tiny_tokenizer
from headscope.pipeline.commands import check
from headscope.pipeline.plan.plan import build
from headscope.pipeline.store import provenance

SIZES = {"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 32, "vocab": 300, "positions": 128, "seed": 0}
TEXTS = ["The quick brown fox jumps over the lazy dog.", "Pack my box with five dozen liquor jugs."]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_llama(**SIZES).save_pretrained(tmp_path / "model")
    tiny_tokenizer(TEXTS, SIZES["vocab"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_that_is_served_gets_a_table_of_facts_and_comparisons(folder, capsys):
    assert cli.main(["check", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "4 query, 2 KV, groups of 2" in table and "NOT EQUAL" not in table
    assert " tokens for 300 embeddings, with chat template" in table
    assert table.splitlines()[-1].startswith("served rightly (")


def test_a_model_without_known_probes_is_not_called_served_rightly(folder, capsys):
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": SIZES["vocab"]}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    assert cli.main(["check", str(folder)]) == 0
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("served without probes: ") and "choose criterion=qada" in verdict


def test_a_name_of_conf_is_checked_where_a_run_has_put_it_and_with_its_own_rope(folder, tmp_path, capsys, monkeypatch):
    plan = build(["model=llama3_8b_rope16k", f"results={tmp_path}"])
    [node] = [node for node in plan.nodes["assets"].values() if json.loads(node.spec)["kind"] == "model"]
    asset = tmp_path / node.address
    asset.mkdir(parents=True)
    (asset / "manifest.json").write_text(json.dumps({"model": str(folder)}))
    provenance.write(asset, provenance.collect(asset, "code", {}, time.time()))
    monkeypatch.setattr(check.planning, "build", lambda words: plan)
    assert cli.main(["check", "llama3_8b_rope16k"]) == 0
    assert "'rope_type': 'yarn'" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["/no/such/folder", "./folder", "a/b/c", "model.gguf"])
def test_a_path_where_nothing_is_is_not_looked_for_on_the_hub(name, capsys):
    assert cli.main(["check", name]) == 2
    assert capsys.readouterr().err == (
        f"headscope: {name} does not exist; give a folder, a GGUF file, a name of conf/model or a hub id\n"
    )


def test_an_adapter_without_its_model_is_refused_as_one(folder, capsys):
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert cli.main(["check", str(folder)]) == 2
    assert "has an adapter (adapter_config.json); merge it" in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused_before_a_conversion_is_announced(folder, capsys):
    assert cli.main(["check", str(folder / "model.safetensors")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no GGUF file" in said and "or name the folder" in said


@pytest.mark.parametrize(("name", "package"), [("model.gguf", "gguf"), ("tiny", "hydra")])
def test_a_package_that_the_library_alone_does_not_install_is_named(name, package, tmp_path, capsys, monkeypatch):
    (tmp_path / "model.gguf").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("headscope.pipeline.config.compose.CACHE", str(tmp_path))
    assert cli.main(["check", name]) == 2
    assert capsys.readouterr().err == (
        f"headscope: {package} is not installed; install the workflow: pip install -e '.[workflow]'\n"
    )


def test_a_device_that_does_not_exist_is_refused(folder):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["check", str(folder), "--device", "gpu"])
