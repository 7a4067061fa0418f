"""Benchmark files: from an address, the hub or a local copy; hash-checked; one clear error for whatever goes wrong."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, Hub, serve

from headscope.errors import AssetError
from headscope.pipeline.stages import assets
from headscope.pipeline.store.files import atomic_folder
from headscope.pipeline.store.parents import Parents

FILES = {"/a.txt": b"first part\n", "/b.txt": b"second\n", "/large": bytes(range(256)) * 10_000}


class Handler(BaseHTTPRequestHandler):
    """Sends FILES; an address that starts with /cut breaks off in the middle."""

    def do_GET(self) -> None:
        body = FILES.get(self.path.removeprefix("/cut"))
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        cut = self.path.startswith("/cut")
        self.wfile.write((body or b"")[: len(body or b"") // 2] if cut else body or b"")
        self.close_connection = cut

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def make(results: Path, **spec: Any) -> tuple[Path, dict[str, Any]]:
    """Run the stage as the driver does; return the file's path and the manifest."""
    out = results / "assets" / "mine--0123456789"
    with atomic_folder(out) as folder:
        assets.run({"kind": "data", "name": "mine", "local": ["mine/*.txt"], **spec}, folder, Parents([]))
    manifest = json.loads((out / "manifest.json").read_text())
    return out / manifest["path"], manifest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_whole_and_its_digest_kept(address: str, tmp_path: Path) -> None:
    path, manifest = make(tmp_path, source="url", url=f"{address}/large", sha256=sha256(FILES["/large"]))
    assert path.read_bytes() == FILES["/large"]
    assert manifest["files"] == {"content": sha256(FILES["/large"])}


def test_several_parts_are_joined_in_their_order_and_checked_as_one(address: str, tmp_path: Path) -> None:
    joined = FILES["/b.txt"] + FILES["/a.txt"]
    path, _ = make(tmp_path, source="url", url=f"{address}/{{}}.txt", parts=["b", "a"], sha256=sha256(joined))
    assert path.read_bytes() == joined


def test_a_wrong_digest_names_file_expected_found_and_the_option(address: str, tmp_path: Path) -> None:
    found = sha256(FILES["/a.txt"])
    with pytest.raises(
        AssetError, match=rf"mine has the wrong SHA-256: expected 00, found {found}.*files\.mine\.sha256"
    ):
        make(tmp_path, source="url", url=f"{address}/a.txt", sha256="00")
    assert not any((tmp_path / "assets").iterdir())


@pytest.mark.parametrize("path", ["/none", "/cut/large"])
def test_an_address_that_fails_names_itself_and_the_mirror(address: str, tmp_path: Path, path: str) -> None:
    start = time.monotonic()
    with pytest.raises(
        AssetError,
        match=rf"mine: {address}{path} cannot be fetched .* assets\.mirror=<folder>: assets\.files\.mine\.local",
    ):
        make(tmp_path, source="url", url=f"{address}{path}")
    assert not any((tmp_path / "assets").iterdir())
    assert time.monotonic() - start < 1


def test_a_server_that_is_not_there_is_one_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"http://127\.0\.0\.1:9/x cannot be fetched"):
        make(tmp_path, source="url", url="http://127.0.0.1:9/x")


def test_a_mirror_is_read_instead_of_the_network(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "mine").mkdir(parents=True)
    for name, text in {"b.txt": "B", "a.txt": "A"}.items():
        (tmp_path / "mirror" / "mine" / name).write_text(text)
    mirror = {"source": "url", "url": "http://nowhere.invalid/x", "mirror": str(tmp_path / "mirror")}
    path, manifest = make(tmp_path, **mirror, sha256=sha256(b"AB"))
    assert path.read_bytes() == b"AB"
    folder = (tmp_path / "mirror" / "mine").resolve()
    assert manifest["copied"] == {f"{folder}/a.txt": sha256(b"A"), f"{folder}/b.txt": sha256(b"B")}
    with pytest.raises(AssetError, match="wrong SHA-256"):
        make(tmp_path, **mirror, sha256="00")
    with pytest.raises(AssetError, match=r"mirror .* has no other/\* or more; add it there"):
        make(tmp_path, **mirror | {"local": ["other/*", "more"]})


def test_a_mirrors_single_file_or_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "data").mkdir(parents=True)
    (tmp_path / "mirror" / "data" / "x.jsonl").write_text("{}\n")
    path, manifest = make(tmp_path, source="hub", mirror=str(tmp_path / "mirror"), local=["data.zip", "data"])
    assert path == tmp_path / "mirror" / "data" and manifest["files"] == {"x.jsonl": sha256(b"{}\n")}
    path, manifest = make(tmp_path, source="hub", mirror=str(tmp_path / "mirror"), local=["data/x.jsonl"])
    assert path == tmp_path / "mirror" / "data" / "x.jsonl" and set(manifest["files"]) == {"x.jsonl"}
    assert manifest["outside"] == {str(path): sha256(b"{}\n")}


def test_a_data_set_of_the_hub_comes_through_its_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub("datasets/lab/set", {"data.zip": b"zipped"})
    with serve(hub, monkeypatch, str(tmp_path / "cache")):
        path, manifest = make(tmp_path, source="hub", repository="lab/set", file="data.zip")
        assert path.read_bytes() == b"zipped" and COMMIT in str(path)
        assert manifest["files"] == {"data.zip": sha256(b"zipped")}
        with pytest.raises(
            AssetError, match=r"none\.zip of the hub's dataset lab/set at revision main cannot be fetched"
        ):
            make(tmp_path, source="hub", repository="lab/set", file="none.zip")


def test_a_file_of_this_machine_is_copied(tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_text("{}\n")
    path, manifest = make(tmp_path, source="file", path=str(tmp_path / "given.jsonl"))
    assert path.name == "content" and path.read_text() == "{}\n"
    assert manifest["copied"] == {str(tmp_path / "given.jsonl"): sha256(b"{}\n")}
    with pytest.raises(AssetError, match=r"gone\.jsonl does not exist"):
        make(tmp_path, source="file", path=str(tmp_path / "gone.jsonl"))
