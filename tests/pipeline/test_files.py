import errno
import os
from pathlib import Path

import pytest

from headscope.errors import AssetError
from headscope.pipeline.store.files import atomic_file, atomic_folder, canonical, digest, results_root, sha256_file


def test_digest_ignores_the_order_of_keys_but_not_their_types():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})
    assert len(digest({}, length=16)) == 16


def test_canonical_refuses_what_json_cannot_carry():
    with pytest.raises(ValueError):
        canonical({"a": float("nan")})
    with pytest.raises(TypeError):
        canonical({"a": Path("x")})


def test_a_folder_appears_whole(tmp_path):
    final = tmp_path / "stage" / "node--0123456789"
    with atomic_folder(final) as folder:
        (folder / "data").write_text("x")
        assert not final.exists()
        assert results_root(folder) == results_root(final) == tmp_path
    assert [path.name for path in final.parent.iterdir()] == [final.name]
    assert (final / "data").read_text() == "x"


def test_a_folder_replaces_an_older_one(tmp_path):
    final = tmp_path / "node"
    final.mkdir()
    (final / "old").touch()
    with atomic_folder(final) as folder:
        (folder / "new").touch()
    assert [path.name for path in final.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [final]


def test_an_error_leaves_neither_file_nor_folder(tmp_path):
    with pytest.raises(KeyError), atomic_folder(tmp_path / "node") as folder:
        (folder / "data").touch()
        raise KeyError
    with pytest.raises(KeyError), atomic_file(tmp_path / "file") as path:
        path.touch()
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "cannot write"), (errno.EISDIR, "cannot")]
)
def test_a_full_or_closed_disk_is_one_clear_error(tmp_path, code, words):
    final = tmp_path / "node"
    with pytest.raises(AssetError, match=words) as caught, atomic_folder(final):
        raise OSError(code, os.strerror(code))
    assert str(final) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")
