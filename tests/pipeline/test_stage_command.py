import json
import os

import pytest
import yaml
from toy_nodes import install, make, write_spec

from headscope import __main__ as cli
from headscope.errors import AssetError, ConfigError
from headscope.pipeline.commands import stage
from headscope.pipeline.store import provenance


def test_a_stage_leaves_its_files_with_spec_and_provenance(tmp_path, monkeypatch):
    install(monkeypatch, write_spec)
    out = tmp_path / "assets" / "mine"
    assert cli.main(["assets", '{"kind":"data","x":1}', str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"manifest.json", "spec.yaml", "provenance.json"}
    assert yaml.safe_load((out / "spec.yaml").read_text()) == {"kind": "data", "x": 1}
    found = json.loads((out / "provenance.json").read_text())
    assert set(found["files"]) == {"manifest.json", "spec.yaml"}
    assert found["packages"]["torch"] and found["seconds"] >= 0 and found["peak_memory_mib"] > 0
    assert found["hardware"]["cores"] == os.cpu_count()


def test_parents_are_recorded_with_the_hashes_of_their_files(tmp_path, monkeypatch):
    install(monkeypatch, write_spec)
    first = make(tmp_path, "first", {"kind": "data"})
    second = make(tmp_path, "second", {"kind": "model"}, [first])
    parents = provenance.read(second)["parents"]
    assert parents == {f"assets/{first.name}": provenance.read(first)["files"]}


def test_a_failed_stage_leaves_nothing_and_says_one_line(tmp_path, monkeypatch, capsys):
    def fail(spec, out, parents):
        (out / "half").touch()
        raise AssetError("the file x is damaged; fetch it again")

    install(monkeypatch, fail)
    assert cli.main(["assets", '{"kind":"data"}', str(tmp_path / "assets" / "mine")]) == 2
    assert capsys.readouterr().err == "headscope: the file x is damaged; fetch it again\n"
    assert list((tmp_path / "assets").iterdir()) == []


def test_code_that_changed_after_the_plan_is_refused(tmp_path, monkeypatch):
    install(monkeypatch, write_spec)
    with pytest.raises(ConfigError, match="the code has changed since the plan"):
        stage.run("assets", {"kind": "data"}, tmp_path / "assets" / "mine--0123456789", [])
    assert not (tmp_path / "assets").exists()


def test_unknown_commands_and_specs_are_one_line(capsys):
    assert cli.main(["verfy"]) == 2
    assert "did you mean 'verify'?" in capsys.readouterr().err
    assert cli.main(["assets", "{", "out"]) == 2
    assert "is no JSON" in capsys.readouterr().err


def test_help_lists_commands_and_stages(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in (*cli.COMMANDS, "oracle", "evaluation"))


def test_a_results_folder_below_a_file_is_one_line(tmp_path, monkeypatch, capsys):
    install(monkeypatch, write_spec)
    (tmp_path / "file").touch()
    assert cli.main(["assets", '{"kind":"data"}', str(tmp_path / "file" / "assets" / "mine")]) == 2
    assert "cannot write" in capsys.readouterr().err
