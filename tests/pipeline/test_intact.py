import json
import os
import shutil

import pytest
from toy_nodes import install, make, write_spec

from headscope.errors import AssetError
from headscope.pipeline.store import intact, provenance
from headscope.pipeline.store.files import sha256_file
from headscope.pipeline.store.intact import problem


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A node and its child."""
    install(monkeypatch, write_spec)
    first = make(tmp_path, "first", {"kind": "data"})
    return first, make(tmp_path, "second", {"kind": "model"}, [first])


@pytest.fixture
def standing_for(tmp_path, monkeypatch):
    """A node that stands for a file outside: used where it lies, or copied."""

    def node(how):
        (tmp_path / "weights").write_text("weights")
        files = {str(tmp_path / "weights"): sha256_file(tmp_path / "weights")}
        os.utime(tmp_path / "weights", ns=(1, 1))
        install(monkeypatch, lambda spec, out, _: (out / "manifest.json").write_text(json.dumps({how: files})))
        return make(tmp_path, "model", {"kind": "model"})

    return node


def test_sound_folders_have_no_problem_and_are_not_hashed(pair, monkeypatch):
    monkeypatch.setattr(intact, "sha256_file", None)
    assert [problem(folder, ["manifest.json", "provenance.json"]) for folder in pair] == [None, None]


def test_a_declared_a_recorded_and_a_truncated_file_are_missed(pair):
    assert problem(pair[0], ["rows.parquet"]) == "rows.parquet is missing"
    (pair[0] / "manifest.json").write_text("")
    assert problem(pair[0]) == "manifest.json has changed since it was made"
    (pair[0] / "manifest.json").unlink()
    assert problem(pair[0]) == "manifest.json is missing"


def test_a_file_of_the_same_size_that_was_edited_is_hashed(pair):
    text = (pair[0] / "manifest.json").read_text()
    (pair[0] / "manifest.json").write_text(text.replace("data", "dbta"))
    assert problem(pair[0]) == "manifest.json has changed since it was made"


def test_a_copied_folder_is_hashed_once_and_sound(pair, tmp_path, monkeypatch):
    copy = tmp_path / "elsewhere" / "assets" / pair[0].name
    shutil.copytree(pair[0], copy, copy_function=shutil.copy)
    assert problem(copy) is None
    monkeypatch.setattr(intact, "sha256_file", None)
    assert problem(copy) is None


def test_provenance_that_is_lost_garbled_edited_or_of_another_format_is_a_problem(pair):
    file = pair[0] / "provenance.json"
    text = file.read_text()
    for other, words in {
        "{": "provenance.json cannot be read (JSONDecodeError)",
        "[]": "provenance.json is garbled",
        text.replace('"seconds": 0', '"seconds": 1'): "provenance.json has changed since it was made",
        text.replace('"format": 1', '"format": 2'): "provenance.json has format 2, and this version of headscope knows",
    }.items():
        file.write_text(other)
        assert problem(pair[0]).startswith(words)
    file.unlink()
    assert problem(pair[0]) == "provenance.json is missing"
    assert problem(pair[0].with_name("nothing--0123456789")) == "provenance.json is missing"


def test_a_child_of_other_bytes_is_told(pair):
    recorded = provenance.read(pair[0])
    provenance.write(pair[0], {**recorded, "files": {**recorded["files"], "manifest.json": "0" * 64}})
    assert problem(pair[1]) == f"made from other bytes of assets/{pair[0].name} than lie there now"


@pytest.mark.parametrize("how", ["outside", "copied"])
def test_a_file_outside_that_changed_in_place_is_a_problem(standing_for, how, tmp_path):
    folder = standing_for(how)
    assert problem(folder) is None
    (tmp_path / "weights").write_text("heights")
    assert problem(folder) == f"{tmp_path}/weights has changed since it was fetched"
    (tmp_path / "weights").unlink()
    assert problem(folder) == (f"{tmp_path}/weights is missing" if how == "outside" else None)


def test_a_stage_refuses_parents_that_have_changed(pair, tmp_path):
    file = pair[0] / "manifest.json"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_text(file.read_text().replace("data", "dbta"))
    os.utime(file, ns=times)  # size and time are those recorded
    with pytest.raises(AssetError, match=r"manifest.json has changed .* headscope verify --delete"):
        make(tmp_path, "third", {"kind": "data"}, [pair[0]])
    assert len(list((tmp_path / "assets").iterdir())) == 2


def test_a_stage_refuses_a_model_that_changed_in_place(standing_for, tmp_path, monkeypatch):
    folder = standing_for("outside")
    (tmp_path / "weights").write_text("heights")
    install(monkeypatch, write_spec)
    with pytest.raises(AssetError, match=r"weights has changed .* headscope verify --delete"):
        make(tmp_path, "reader", {"kind": "data"}, [folder])
