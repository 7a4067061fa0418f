import json
import shutil

import pytest
from toy_nodes import install, make, write_spec

from headscope.pipeline.store import provenance
from headscope.pipeline.store import verify as module
from headscope.pipeline.store.verify import Kind, finished, leftovers, made_from, verify


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """A node and its child."""
    install(monkeypatch, write_spec)
    first = make(tmp_path, "first", {"kind": "data"})
    return first, make(tmp_path, "second", {"kind": "model"}, [first])


def problems(folder):
    return [finding.problem for finding in verify(folder)]


def test_sound_folders_have_no_findings(pair):
    assert [problems(folder) for folder in pair] == [[], []]


def test_a_truncated_file_is_found(pair):
    (pair[0] / "manifest.json").write_text("")
    assert problems(pair[0]) == ["manifest.json has changed since it was made"]


def test_a_garbled_file_of_the_same_size_is_found(pair):
    file = pair[0] / "manifest.json"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert problems(pair[0]) == ["manifest.json has changed since it was made"]


def test_a_deleted_and_an_added_file_are_found(pair):
    (pair[0] / "manifest.json").rename(pair[0] / "other.json")
    assert problems(pair[0]) == ["manifest.json is missing", "no stage made it"]


def test_lost_provenance_is_found(pair):
    (pair[0] / "provenance.json").write_text("{")
    assert problems(pair[0]) == ["provenance.json cannot be read (JSONDecodeError)"]


def test_a_result_of_a_version_without_formats_is_only_named(pair):
    recorded = provenance.read(pair[0])
    (pair[0] / "provenance.json").write_text(json.dumps(recorded))
    assert [finding.kind for finding in verify(pair[0])] == [Kind.OLD]
    (pair[0] / "provenance.json").write_text(json.dumps({"sha256": "0", **recorded}))
    assert [finding.kind for finding in verify(pair[0])] == [Kind.DAMAGED]


def test_a_child_outlives_a_collected_parent(pair):
    shutil.rmtree(pair[0])
    assert problems(pair[1]) == []


def test_a_renamed_folder_is_found(pair):
    moved = pair[0].with_name("first--0123456789")
    pair[0].rename(moved)
    assert problems(moved) == [f"it is {pair[0].name} under another name"]


def test_a_result_of_older_code_is_sound_but_named(pair, monkeypatch):
    monkeypatch.setattr(module, "code_digest", lambda *_: "other")
    findings = list(verify(pair[0]))
    assert [finding.problem for finding in findings] == ["was made by other code than the present"]
    assert findings[0].kind is Kind.OLD


def test_empty_and_temporary_folders_are_no_results(pair, tmp_path):
    (tmp_path / "oracle" / "vt--0123456789" / "estimates").mkdir(parents=True)
    (tmp_path / "oracle" / ".vt--0123456789.abc.tmp").mkdir()
    assert set(finished(tmp_path)) == set(pair)
    assert [path.name for path in leftovers(tmp_path)] == [".vt--0123456789.abc.tmp"]


def test_damage_is_followed_to_every_descendant_also_through_missing_ones():
    parents = {"a": [], "b": ["a"], "c": ["b"], "d": ["c", "x"], "e": ["x"], "x": []}
    assert made_from({"a"}, parents) == {"b": "a", "c": "a", "d": "a"}
    assert made_from({"a", "c"}, parents) == {"b": "a", "d": "c"}
    assert made_from(set(), parents) == {}
