"""Files of benchmarks: from an address, the hub, or a local copy.

A file's part of `manifest.json`: `path` (beside it, or absolute where a local copy serves as it lies), `files` (SHA-256
by name) and `sha256` over all of them, `outside` and `copied` (see `provenance.outside_files`).
"""

import shutil
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from headscope.errors import AssetError
from headscope.pipeline.assets.hub import hub_file
from headscope.pipeline.progress import progress
from headscope.pipeline.store.files import hashes, sha256_file

CONTENT = "content"
CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte


def make(spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """Bring one file here and check it; return its part of the manifest.

    Raises:
        AssetError: the file cannot be fetched, is missing in the local copy, or has another SHA-256.
    """
    source, file = spec["source"], out / CONTENT
    originals = {str(original): sha256_file(original) for original in _originals(spec) if original.is_file()}
    bring = _mirrored if spec.get("mirror") else {"url": _urls, "hub": _hub, "file": _copy}[source]
    path = bring(spec, file)
    if path.is_file():
        _check(path, spec)
    names = [path.name] if path.is_file() else sorted(member.name for member in path.iterdir() if member.is_file())
    folder = path.parent if path.is_file() else path
    place = {"path": CONTENT, "copied": originals} if path == file else {"path": str(path)}
    return {"source": source, **hashes(folder, names, out), **place}


def _originals(spec: dict[str, Any]) -> list[Path]:
    """Return the files of this machine that an asset is read or copied from; an empty list for one that is fetched."""
    if spec.get("mirror"):
        return mirror_paths(Path(spec["mirror"]).expanduser().absolute(), spec["local"])
    return [Path(spec["path"]).expanduser().absolute()] if spec["source"] == "file" else []


def mirror_paths(mirror: Path, local: Iterable[str]) -> list[Path]:
    """Return the files of a local copy that match the first pattern with any match, sorted by name."""
    for pattern in local:
        if files := sorted(mirror.glob(pattern)):
            return files
    return []


def _mirrored(spec: dict[str, Any], file: Path) -> Path:
    files = _originals(spec)
    if not files:
        mirror, wanted = Path(spec["mirror"]).expanduser().absolute(), " or ".join(spec["local"])
        raise AssetError(f"{spec['name']}: the mirror {mirror} has no {wanted}; add it there")
    if len(files) == 1:
        return files[0]
    with file.open("wb") as joined:
        for part in files:
            with part.open("rb") as content:
                shutil.copyfileobj(content, joined)
    return file


def _copy(spec: dict[str, Any], file: Path) -> Path:
    """Copy a file of this machine: its owner may change it."""
    [original] = _originals(spec)
    if not original.is_file():
        raise AssetError(f"{spec['name']}: {original} does not exist")
    shutil.copyfile(original, file)
    return file


def _hub(spec: dict[str, Any], file: Path) -> Path:
    return hub_file(spec["repository"], spec["file"], spec.get("revision"))


def _urls(spec: dict[str, Any], file: Path) -> Path:
    """Download one file, or several parts of one text."""
    names = spec.get("parts") or [""]
    with file.open("wb") as content:
        for name in names if len(names) == 1 else progress(names, f"fetching {spec['name']}"):
            address = spec["url"].replace("{}", name)
            try:
                _download(address, content, spec["name"] if len(names) == 1 else "")
            except (OSError, HTTPException) as error:  # URLError is an OSError
                if isinstance(error, OSError) and error.filename == str(file):
                    raise  # the disk, not the network
                raise AssetError(
                    f"{spec['name']}: {address} cannot be fetched ({error}); check the network, or give a local copy "
                    f"with assets.mirror=<folder>: assets.files.{spec['name']}.local says under which names"
                ) from error
    return file


def _download(address: str, content: Any, label: str) -> None:
    """Append the content of an address; with a label, report progress."""
    with urlopen(address, timeout=TIMEOUT) as response:
        total = response.length
        if total is None:
            shutil.copyfileobj(response, content)
            return
        chunks = range(-(-total // CHUNK))
        received = sum(
            content.write(response.read(CHUNK)) for _ in (progress(chunks, f"fetching {label}") if label else chunks)
        )
        if received != total:
            raise HTTPException(f"{received} of {total} bytes came")


def _check(path: Path, spec: dict[str, Any]) -> None:
    expected = spec.get("sha256")
    if expected and (actual := sha256_file(path)) != expected:
        raise AssetError(
            f"{spec['name']} has the wrong SHA-256: expected {expected}, found {actual} in {path.name}; fetch it "
            f"again, or correct assets.files.{spec['name']}.sha256 if you trust the file"
        )
