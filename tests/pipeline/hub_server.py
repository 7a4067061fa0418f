"""A stand-in for the model hub on this machine: the few routes that fetching a snapshot uses."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def etag(name: str, body: bytes) -> str:
    """The hub's digest of a file: git's for small files, that of large file storage for weights."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(body).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


class Hub:
    """The hub's state: one repository at one commit, and what was asked of it."""

    def __init__(self, repository: str, files: dict[str, bytes], token: str | None = None):
        self.repository, self.files, self.token = repository, files, token
        self.cut: str | None = None  # a file whose download breaks off in the middle, every time
        self.fetched: list[str] = []  # files that were sent
        self.tokens: set[str | None] = set()

    def respond(self, path: str, authorization: str | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        self.tokens.add(authorization)
        if self.token and authorization != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        api, revisions = f"/api/models/{self.repository}", f"(main|{COMMIT})"
        if re.fullmatch(rf"{api}/revision/{revisions}", path):
            return 200, {}, json.dumps({"id": self.repository, "sha": COMMIT, "siblings": []}).encode()
        if path.startswith(f"{api}/tree/{COMMIT}"):
            return 200, {}, json.dumps([self._entry(name) for name in self.files]).encode()
        found = re.fullmatch(rf"/{self.repository}/resolve/{revisions}/(.+)", path)
        if found and found[2] in self.files:
            body = self.files[found[2]]
            return 200, {"ETag": f'"{etag(found[2], body)}"', "X-Repo-Commit": COMMIT}, body
        code = "RevisionNotFound" if path.startswith(f"{api}/") else "RepoNotFound"
        return 404, {"X-Error-Code": code}, b""

    def _entry(self, name: str) -> dict[str, object]:
        body = self.files[name]
        return {"type": "file", "path": name, "size": len(body), "oid": etag(name, body)}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(send_body=False)

        def do_GET(self) -> None:
            self._answer(send_body=True)

        def _answer(self, send_body: bool) -> None:
            status, headers, body = hub.respond(self.path.split("?")[0], self.headers.get("Authorization"))
            name = self.path.split("/")[-1]
            broken = send_body and name == hub.cut
            if broken and "Range" in self.headers:
                status, headers, body = 403, {}, b""  # the client's own retry of the rest fails too
            elif "/resolve/" in self.path and send_body and status == 200:
                hub.fetched.append(name)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if send_body:
                self.wfile.write(body[: len(body) // 2] if broken else body)
            if broken:
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[None]:
    """Let the hub's client talk to `hub`, with an empty cache of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
